"""Each route with real videos: the answers are those of the pipelines."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from clipbert_server import RunningServer, running_server
from PIL import Image

from clipbert import pipeline

pytestmark = pytest.mark.slow

QUESTION = "what color is it?"
OPTIONS = ["red", "blue", "a red square moves left"]
TEXTS = ["a red square", "a blue circle", "what"]


def folder(root: Path, task: str) -> Path:
    return root / "artifacts" / "models" / task


def upload(root: Path, number: int = 0) -> dict[str, tuple[str, bytes]]:
    return {"video": (f"{number}.mp4", (root / "data" / "videos" / f"{number}.mp4").read_bytes())}


def test_a_question_about_an_upload_and_about_a_file_of_the_server(http: httpx.Client, served_project: Path) -> None:
    expected = pipeline(None, folder(served_project, "open_qa"))(
        served_project / "data" / "videos" / "0.mp4", QUESTION, top=2
    )
    sent = http.post("/v1/ask", files=upload(served_project), data={"question": QUESTION, "top": 2})
    assert sent.status_code == 200, sent.text
    found = sent.json()
    assert [row["answer"] for row in found["answers"]] == [row["answer"] for row in expected]
    assert [row["score"] for row in found["answers"]] == pytest.approx([row["score"] for row in expected], abs=1e-5)
    assert found["video"] == {"name": "0.mp4", "width": 64, "height": 48, "duration_s": 2.0}
    assert found["model"] == {"name": "artifacts/models/open_qa (the last trained)", "task": "open_qa"}
    assert (found["question"], found["calibrated"], found["remarks"], found["explanation"]) == (
        QUESTION,
        False,
        [],
        None,
    )
    named = http.post("/v1/ask", data={"path": "videos/0.mp4", "question": QUESTION, "top": 2}).json()
    assert named["answers"] == found["answers"]
    whole = str(served_project / "data" / "videos" / "0.mp4")
    assert http.post("/v1/ask", data={"path": whole, "question": QUESTION}).status_code == 200


def test_options_captions_and_texts(http: httpx.Client, served_project: Path) -> None:
    video = served_project / "data" / "videos" / "1.mp4"
    choose = pipeline(None, folder(served_project, "multiple_choice"))(video, QUESTION, OPTIONS)
    found = http.post(
        "/v1/choose", files=upload(served_project, 1), data={"question": QUESTION, "options": OPTIONS}
    ).json()
    assert [row["option"] for row in found["answers"]] == [row["option"] for row in choose]
    assert [row["score"] for row in found["answers"]] == pytest.approx([row["score"] for row in choose], abs=1e-5)
    (caption,) = pipeline(None, folder(served_project, "captioning"))(video)
    found = http.post("/v1/caption", files=upload(served_project, 1)).json()
    assert found["caption"] == caption["caption"]
    assert found["score"] == pytest.approx(caption["score"], abs=1e-4)
    search = pipeline(None, folder(served_project, "retrieval"))
    scores = dict(zip(TEXTS, search.match(search.encode([video]), TEXTS), strict=True))
    found = http.post("/v1/match", files=upload(served_project, 1), data={"texts": TEXTS}).json()
    assert {row["text"]: row["score"] for row in found["texts"]} == pytest.approx(scores, abs=1e-5)
    assert [row["score"] for row in found["texts"]] == sorted(scores.values(), reverse=True)
    assert found["score_kind"] == "log_odds"


def test_many_requests_at_once_share_forward_passes_and_get_their_own_answers(
    http: httpx.Client, served_project: Path
) -> None:
    """Requests about different videos with different texts, in one batch."""
    search = pipeline(None, folder(served_project, "retrieval"))
    choose = pipeline(None, folder(served_project, "multiple_choice"))
    videos = [served_project / "data" / "videos" / f"{number}.mp4" for number in range(4)]

    def match(number: int) -> list[float]:
        texts = TEXTS[: 1 + number % 3]
        sent = http.post("/v1/match", data={"path": f"videos/{number % 4}.mp4", "texts": texts})
        assert sent.status_code == 200, sent.text
        rows = sorted(sent.json()["texts"], key=lambda row: row["index"])
        return [row["score"] for row in rows]

    def chosen(number: int) -> list[float]:
        options = OPTIONS[: 2 + number % 2]
        sent = http.post(
            "/v1/choose", data={"path": f"videos/{number % 4}.mp4", "question": QUESTION, "options": options}
        )
        assert sent.status_code == 200, sent.text
        return [row["score"] for row in sent.json()["answers"]]

    with ThreadPoolExecutor(16) as threads:
        matched, picked = list(threads.map(match, range(24))), list(threads.map(chosen, range(24)))
    for number in range(24):
        video = videos[number % 4]
        texts = TEXTS[: 1 + number % 3]
        assert matched[number] == pytest.approx(search.match(search.encode([video]), texts), abs=1e-4)
        rows = choose(video, QUESTION, OPTIONS[: 2 + number % 2])
        assert picked[number] == pytest.approx([row["score"] for row in rows], abs=1e-4)
    sizes = [line for line in http.get("/metrics").text.splitlines() if line.startswith("clipbert_batch_size_count")]
    counts = {line.split('"')[1]: float(line.split()[-1]) for line in sizes}
    assert 0 < counts["match"] < 26  # fewer passes than requests


def test_segments_and_pictures(http: httpx.Client, served_project: Path) -> None:
    video = served_project / "data" / "videos" / "2.mp4"
    ask = pipeline(None, folder(served_project, "open_qa"))
    expected = ask({"video": video, "start_s": 1.0, "end_s": None}, QUESTION)
    found = http.post("/v1/ask", data={"path": "videos/2.mp4", "question": QUESTION, "start_s": 1}).json()
    assert found["answers"][0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
    picture = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(picture, "PNG")
    sent = http.post(
        "/v1/ask", files={"video": ("photo.png", picture.getvalue())}, data={"question": QUESTION, "explain": "true"}
    )
    assert sent.status_code == 200, sent.text
    assert sent.json()["video"] == {"name": "photo.png", "width": 60, "height": 40, "duration_s": 0.0}
    sent = http.post(
        "/v1/ask", files={"video": ("photo.png", picture.getvalue())}, data={"question": QUESTION, "start_s": 1}
    )
    assert sent.status_code == 422
    assert (
        sent.json()["error"]["message"] == "photo.png: is an image, which has no segments: leave out start_s and end_s."
    )


@pytest.mark.parametrize(
    ("route", "data"),
    [
        ("ask", {"question": QUESTION}),
        ("choose", {"question": QUESTION, "options": OPTIONS}),
        ("caption", {}),
        ("match", {"texts": TEXTS}),
    ],
)
def test_explanations_have_frames_times_scores_and_words(
    route: str, data: dict, http: httpx.Client, served_project: Path
) -> None:
    sent = http.post(f"/v1/{route}", data={"path": "videos/3.mp4", "explain": "true", **data})
    assert sent.status_code == 200, sent.text
    explained = sent.json()["explanation"]
    processor = pipeline(None, folder(served_project, "open_qa")).processor
    assert len(explained["clips"]) == processor.clips
    times = [frame["time_s"] for clip in explained["clips"] for frame in clip["frames"]]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= 2
    for clip in explained["clips"]:
        assert 0 <= clip["score"] <= 1
        assert all(frame["image"].startswith("data:image/jpeg;base64,") for frame in clip["frames"])
        assert max(map(max, clip["cells"])) <= 1
    if route != "caption":
        assert max(word["relevance"] for word in explained["words"]) <= 1
        assert explained["words"]


def test_the_description_the_documentation_and_the_state(http: httpx.Client, served: RunningServer) -> None:
    info = http.get("/v1/info").json()
    assert sorted(info["models"]) == ["ask", "caption", "choose", "match"]
    assert info["limits"]["upload_mb"] == 200
    assert {http.get(path).json()["status"] for path in ("/health", "/ready")} == {"ok", "ready"}
    description = http.get("/openapi.json").json()
    assert {"/v1/ask", "/v1/caption", "/v1/choose", "/v1/match"} <= description["paths"].keys()
    page = http.get("/docs").text
    assert "http" not in page.replace("http-equiv", "")
    for path in ("/static/swagger/swagger-ui-bundle.js", "/static/swagger/swagger-ui.css", "/static/docs.js"):
        assert http.get(path).status_code == 200
        assert path in page
    metrics = http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'clipbert_model{name="artifacts/models/open_qa (the last trained)",route="ask"} 1.0' in metrics.text


def test_each_request_has_one_line_of_json(http: httpx.Client, served: RunningServer) -> None:
    sent = http.post("/v1/caption", data={"path": "videos/0.mp4"}, headers={"X-Request-ID": "test-7"})
    assert sent.headers["X-Request-ID"] == "test-7"
    (record,) = [each for each in served.records() if each.get("request_id") == "test-7"]
    assert (record["method"], record["path"], record["status"], record["level"]) == ("POST", "/v1/caption", 200, "info")
    assert record["ms"] > 0
    odd = http.get("/health", headers={"X-Request-ID": "a b\t{}"}).headers["X-Request-ID"]
    assert len(odd) == 16


def test_a_server_without_a_model_for_a_route_says_so(tmp_path: Path, served_project: Path) -> None:
    model = folder(served_project, "open_qa")
    with running_server(tmp_path, "--model", f"open_qa={model}") as server, server.client() as client:
        assert client.get("/v1/info").json()["models"] == {"ask": str(model)}
        sent = client.post("/v1/caption", data={"path": "a.mp4"})
        assert sent.status_code == 404
        assert "This server has no model for caption. Start `clipbert serve` with --model" in sent.text
        sent = client.post("/v1/ask", data={"path": "a.mp4", "question": "x"})
        assert sent.json()["error"]["message"].startswith(
            "path 'a.mp4' is not a file below the server's folders (it has"
        )


def test_what_a_user_gets_wrong_ends_with_a_message(tmp_path: Path, served_project: Path) -> None:
    from typer.testing import CliRunner

    from clipbert.cli.main import app

    def fail(*arguments: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            done = CliRunner().invoke(app, ["serve", *arguments])
        assert done.exception is not None
        return str(done.exception)

    model = f"open_qa={folder(served_project, 'open_qa')}"
    assert "no model: no version is the champion" in fail()
    assert "--model nothing: expected TASK=MODEL" in fail("--model", "nothing")
    assert "ask has a model already" in fail("--model", model, "--model", "image_qa=x")
    assert "--root gone: not a folder" in fail("--root", "gone", "--model", model)
    assert "--host 0.0.0.0: other machines can call this address, so an API key is needed" in fail("--host", "0.0.0.0")
    wrong = fail("--model", f"captioning={folder(served_project, 'open_qa')}", "--port", "0")
    assert "is a model of open_qa: expected one of captioning" in wrong
    assert json.dumps(wrong)
