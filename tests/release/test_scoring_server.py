"""A real `mlflow models serve` of a registered model: scores, row errors, and hostile requests over HTTP."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_releases import save_served_model

from clipbert import pipeline
from clipbert.config.schema import Params
from flows.servers import free_port

PARAMS = Params.model_validate({"evaluate": {"clips": 2}, "frames": {"max_frames": 8}})
TEXT = "a red square moves left"


@dataclass(frozen=True)
class ScoringServer:
    """A server that answers, the folder with its media, and its model's own folder."""

    address: str
    media: Path
    model: Path
    log: Path

    def post(self, body: Any, content_type: str | None = "application/json") -> tuple[int, str]:
        """Return status and text of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/invocations", data=data, method="POST")
        # urllib adds a content type of its own where none is given
        request.add_header("Content-Type", content_type or "")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def server(
    make_model: Callable[..., Path], tiny_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScoringServer]:
    root = tmp_path_factory.mktemp("scoring")
    (root / "data").mkdir()
    tiny_video(root / "data" / "a.mp4")
    (root / "secret.txt").write_text("secret")
    (root / "data" / "link.mp4").symlink_to(root / "secret.txt")
    save_served_model(root / "model", "retrieval", make_model("retrieval"), PARAMS)
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PATH": path}
    settings |= {"CLIPBERT_MAX_UPLOAD_MB": "1", "CLIPBERT_MAX_ROWS": "10000", "OMP_NUM_THREADS": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "CLIPBERT_MEDIA_ROOTS"} | settings
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(root / "model"), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    address, log = f"http://127.0.0.1:{port}", root / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        for _ in range(1200):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=2):
                yield ScoringServer(address, root / "data", make_model("retrieval"), log)
                return
            time.sleep(0.1)
        raise RuntimeError(f"the scoring server did not start:\n{log.read_text()}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def test_the_score_is_the_pipelines(server: ScoringServer) -> None:
    search = pipeline("retrieval", server.model, frames=PARAMS.frames)
    for clips in (2, 5):
        search.processor.clips = clips
        (expected,) = search(TEXT, [server.media / "a.mp4"])
        content = base64.b64encode((server.media / "a.mp4").read_bytes()).decode()
        rows = [{"video": video, "text": TEXT} for video in ("a.mp4", "data/a.mp4", f"data:;base64,{content}")]
        body = {"dataframe_records": rows} | ({"params": {"clips": clips}} if clips != 2 else {})
        status, answer = server.post(body)
        assert status == 200
        for row in json.loads(answer)["predictions"]:
            assert row == {"score": pytest.approx(expected["score"], abs=1e-5), "error": None}


def test_a_csv_and_the_other_formats_of_a_request(server: ScoringServer) -> None:
    row = {"video": "a.mp4", "text": TEXT}
    _, expected = server.post({"dataframe_records": [row]})
    columns = {name: [value] for name, value in row.items()}
    split = {"columns": list(row), "data": [list(row.values())]}
    for body in ({"dataframe_split": split}, {"inputs": columns}, {"instances": [row]}):
        assert server.post(body) == (200, expected)
    assert server.post(f"video,text\na.mp4,{TEXT}\n".encode(), "text/csv") == (200, expected)
    assert server.post(b"video,text\n", "text/csv") == (200, '{"predictions": []}')

    part = row | {"start_s": 1, "end_s": 2}
    status, of_part = server.post({"dataframe_records": [part]})
    assert (status, of_part != expected) == (200, True)
    columns = {name: [value] for name, value in part.items()}
    split = {"columns": list(part), "data": [list(part.values())]}
    for body in ({"dataframe_split": split}, {"inputs": columns}, {"instances": [part]}):
        assert server.post(body) == (200, of_part)
    assert server.post(f"video,text,start_s,end_s\na.mp4,{TEXT},1,2\n".encode(), "text/csv") == (200, of_part)


def test_rows_that_fail_say_why_and_the_others_are_answered(server: ScoringServer) -> None:
    videos = ["a.mp4", "link.mp4", "../secret.txt", "/etc/passwd", "/dev/stdin", "/proc/self/environ", ".", "b.mp4"]
    videos += [f"data:;base64,{'A' * 2_000_000}", "data:;base64,AAAA", None, 7, "a.mp4"]
    status, answer = server.post({"dataframe_records": [{"video": video, "text": TEXT} for video in videos]})
    assert status == 200
    rows = json.loads(answer, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["predictions"]
    assert [row["error"] is None for row in rows] == [video == "a.mp4" for video in videos]
    assert "secret" not in answer.replace("../secret.txt", "")
    assert "Traceback" not in answer
    assert str(server.media.parent) not in answer
    assert all(row["error"].startswith(f"row {number}: video ") for number, row in enumerate(rows) if row["error"])


def test_many_rows_of_one_file(server: ScoringServer) -> None:
    rows = [{"video": "a.mp4" if number % 2 else "gone.mp4", "text": f"{TEXT} {number}"} for number in range(10_000)]
    status, answer = server.post({"dataframe_records": rows})
    assert status == 200
    answers = json.loads(answer)["predictions"]
    assert [row["error"] is None for row in answers] == [number % 2 == 1 for number in range(10_000)]


ROW = {"video": "a.mp4", "text": TEXT}


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        ({"dataframe_records": [ROW], "params": {"clipz": 2}}, "application/json", "params.clipz: unknown parameter"),
        ({"dataframe_records": [ROW], "params": {"clips": 0}}, "application/json", "expected a number from 1 to 64"),
        ({"dataframe_records": [ROW], "params": {"clips": "2"}}, "application/json", "Can not safely convert"),
        ({"dataframe_records": [ROW], "params": [2]}, "application/json", "must be a dictionary"),
        ({"dataframe_records": [ROW] * 10_001}, "application/json", "at most 10000, the server's CLIPBERT_MAX_ROWS"),
        ({"dataframe_records": [{"video": "a.mp4"}]}, "application/json", "Model is missing inputs ['text']"),
        ({"dataframe_records": []}, "application/json", "Model is missing inputs"),
        ({"dataframe_records": [1, 2]}, "application/json", "Model is missing inputs"),
        ({"dataframe_records": "x"}, "application/json", "must be a list of records"),
        ({"inputs": "x"}, "application/json", "Model is missing inputs"),
        ({"inputs": {"video": ["a.mp4"], "text": ["a", "b"]}}, "application/json", "must be of the same length"),
        ({"messages": [{"role": "user", "content": "x"}]}, "application/json", "Model is missing inputs"),
        ({}, "application/json", "exactly one of the input fields"),
        (b"", "application/json", "valid JSON"),
        (b"\xff\xfe", "application/json", "valid JSON"),
        (b"[" * 100_000, "application/json", "cannot be parsed"),
        (b'video,text\n"a.mp4', "text/csv", "Failed to parse input"),
        (b"video,text\na.mp4,b,c,d\ne,f\n", "text/csv", None),
        (b"\xff", "text/csv", "UTF-8"),
        (b"", "text/csv", "Failed to parse input"),
        (b"PAR1", "application/vnd.apache.parquet", "Failed to parse input"),
        (b"x", "text/plain", "only supports the following content types"),
        (b"x", None, "Content-Type is missing"),
    ],
)
def test_a_wrong_request_is_the_clients_error(
    server: ScoringServer, body: Any, content_type: str | None, message: str | None
) -> None:
    status, answer = server.post(body, content_type)
    assert 400 <= status < 500 or (message is None and status == 200), answer
    assert message is None or message in answer
    assert "Traceback" not in answer
    assert "stack_trace" not in answer
    assert str(server.media.parent) not in answer
    assert server.post({"dataframe_records": [ROW]})[0] == 200
