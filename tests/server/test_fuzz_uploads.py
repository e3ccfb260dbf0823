"""Damaged and odd media files through HTTP: an answer or a refusal of status 4xx for each, in bounded memory."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clipbert_server import running_server
from PIL import Image

from benchmarks.mutations import mutate
from benchmarks.trap_files import encode, picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# real media next to the repository, if they are there
ZOOS = [parent / "shared" / "data" / "media_zoo" for parent in Path(__file__).resolve().parents]
ZOO = next((folder for folder in ZOOS if folder.is_dir()), ZOOS[0])
QUESTION = {"question": "what color is it?"}


def sources(folder: Path) -> list[Path]:
    """Files of real encoders and muxers."""
    folder.mkdir()
    image = folder / "l.png"
    Image.fromarray(picture(21)).save(image)
    return [
        encode(folder / "a.mp4", container_options={"movflags": "faststart"}),
        encode(folder / "c.mkv"),
        encode(folder / "d.webm", "libvpx-vp9", b_frames=0),
        encode(folder / "f.avi", "mpeg4"),
        encode(folder / "g.ts"),
        encode(folder / "h.gif", "gif", "rgb8"),
        image,
    ]


def test_each_file_is_answered_or_refused(tmp_path: Path, served_project: Path, pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--mutations")
    files = [*sources(tmp_path / "sources"), *mutate(sources(tmp_path / "more"), tmp_path / "damaged", count, seed=1)]
    if ZOO.is_dir():
        files += sorted(path for path in ZOO.rglob("*") if path.is_file())[:: 1 if count > 60 else 3]
    model = f"open_qa={served_project / 'artifacts' / 'models' / 'open_qa'}"
    with running_server(tmp_path, "--model", model, "--request-timeout", "20") as server:
        before = server.memory_mb()

        def send(path: Path) -> tuple[int, str]:
            with server.client() as client, path.open("rb") as file:
                sent = client.post("/v1/ask", files={"video": (path.name, file)}, data=QUESTION)
            assert sent.headers["content-type"] == "application/json"
            error = sent.json().get("error", {"code": "", "message": ""})
            assert "/tmp/" not in error["message"], error
            return sent.status_code, error["code"]

        with ThreadPoolExecutor(4) as threads:
            found = dict(zip(files, threads.map(send, files), strict=True))
        counts = Counter(found.values())
        faults = [each for each in server.records() if each["level"] == "error"]
        assert {status for status, _ in counts} <= {200, 422}, faults
        assert counts[200, ""] > len(files) / 4
        assert all(found[path][0] == 200 for path in files[:7])
        assert server.memory_mb() < before + 700  # two caches of 256 MB, and what runs
        assert server.process.poll() is None
        assert faults == []
        print(dict(counts))
