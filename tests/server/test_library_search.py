"""Search over HTTP: the hits of the index, thumbnails and media of indexed videos alone."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from clipbert_server import RunningServer, running_server
from PIL import Image
from small_releases import save_model

from clipbert import pipeline
from clipbert.search import SearchIndex

pytestmark = pytest.mark.slow

TEXT = "a red square moves left"


@pytest.fixture(scope="module")
def searching(searchable_project: Path) -> Iterator[RunningServer]:
    with running_server(searchable_project) as server:
        yield server
        assert [each for each in server.records() if each["level"] == "error"] == []


@pytest.fixture
def client(searching: RunningServer) -> Iterator[httpx.Client]:
    with searching.client() as found:
        yield found


def test_hits_are_those_of_the_index(client: httpx.Client, searchable_project: Path) -> None:
    model = pipeline("retrieval", searchable_project / "artifacts" / "models" / "retrieval")
    index = SearchIndex.open(searchable_project / "artifacts" / "search")
    expected = index.search(model, text=TEXT, k=3)
    found = client.post("/v1/search", data={"text": TEXT, "k": 3}).json()
    assert [(hit["video_id"], hit["start_s"], hit["end_s"]) for hit in found["hits"]] == [
        (hit.video_id, hit.start_s, hit.end_s) for hit in expected
    ]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    assert found["videos"] == 5
    assert client.get("/v1/info").json()["search"] is True
    only = client.post("/v1/search", data={"text": TEXT, "where": ["kind=long"]}).json()["hits"]
    assert [(hit["video_id"], hit["metadata"]) for hit in only] == [("sub/a long one.mp4", {"kind": "long"})]
    wrong = client.post("/v1/search", data={"text": TEXT, "where": ["color=red"]})
    assert wrong.status_code == 422
    assert "color: not a metadata column" in wrong.text


def test_a_video_finds_itself(client: httpx.Client, searchable_project: Path) -> None:
    video = searchable_project / "data" / "videos" / "1.mp4"
    uploaded = client.post("/v1/search", files={"video": video.open("rb")}, data={"k": 2}).json()["hits"]
    assert uploaded[0]["video_id"] == "1.mp4"
    assert uploaded[0]["score"] == pytest.approx(1.0, abs=1e-3)
    for example in ({"path": "videos/1.mp4"}, {"video_id": "1.mp4"}):
        assert client.post("/v1/search", data={"k": 1, **example}).json()["hits"][0]["video_id"] == "1.mp4"
    both = client.post("/v1/search", data={"text": TEXT, "video_id": "1.mp4"})
    assert both.status_code == 422


def test_thumbnails_show_the_moment_and_media_serve_ranges(client: httpx.Client, searchable_project: Path) -> None:
    hits = client.post("/v1/search", data={"text": TEXT, "k": 5}).json()["hits"]
    assert len(hits) == 5
    for hit in hits:
        picture = client.get(hit["thumbnail"])
        assert picture.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(picture.content)).size == (64, 48)
        whole = client.get(hit["media"])
        assert whole.content == (searchable_project / "data" / "videos" / hit["video_id"]).read_bytes()
        part = client.get(hit["media"], headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, whole.content[100:200])
        assert client.get(hit["media"], headers={"Range": "bytes=99999999-"}).status_code == 416
    # the white bar of these videos grows with time
    bars = [
        np.asarray(Image.open(io.BytesIO(client.get(f"/v1/thumbnails/sub/a%20long%20one.mp4?at={at}").content))).mean()
        for at in (0.5, 3, 5.5)
    ]
    assert bars == sorted(bars)
    assert bars[0] < bars[2]
    asked = client.post("/v1/ask", data={"video_id": "sub/a long one.mp4", "question": "what?", "start_s": 2})
    assert asked.json()["video"]["name"] == "sub/a long one.mp4"


def test_no_other_files_are_served(client: httpx.Client, searchable_project: Path) -> None:
    (searchable_project / "data" / "videos" / "new.mp4").write_bytes(b"x")
    names = ["new.mp4", "../captions.jsonl", "..%2F..%2Fkinds.csv", "%2Fetc%2Fpasswd", "videos/0.mp4", "0.mp4/", "sub"]
    for name in names:
        for route in ("media", "thumbnails"):
            sent = client.get(f"/v1/{route}/{name}")
            assert sent.status_code == 404, name
            assert str(searchable_project) not in sent.text
    (searchable_project / "data" / "videos" / "new.mp4").unlink()


def test_a_missing_index_a_new_one_and_one_of_another_model(tmp_path: Path, searchable_project: Path) -> None:
    shutil.copytree(searchable_project / "artifacts" / "models", tmp_path / "artifacts" / "models")
    with running_server(tmp_path) as server, server.client() as client:
        missing = client.post("/v1/search", data={"text": TEXT})
        assert missing.status_code == 404
        assert "Make one in its project: `clipbert index build`" in missing.text
        assert client.get("/v1/info").json()["search"] is False
        shutil.copytree(searchable_project / "data", tmp_path / "data")
        shutil.copytree(searchable_project / "artifacts" / "search", tmp_path / "artifacts" / "search")
        assert client.post("/v1/search", data={"text": TEXT}).json()["videos"] == 5
        index = tmp_path / "artifacts" / "search" / "index.json"
        index.write_text(index.read_text().replace("segments", "pieces"))
        assert client.post("/v1/search", data={"text": TEXT}).status_code == 404
        shutil.copy(searchable_project / "artifacts" / "search" / "index.json", index)
        assert client.post("/v1/search", data={"text": TEXT}).status_code == 200
    shutil.rmtree(tmp_path / "artifacts" / "models" / "retrieval")
    save_model(tmp_path / "artifacts" / "models" / "retrieval", "retrieval", 1)
    with running_server(tmp_path) as server, server.client() as client:
        other = client.post("/v1/search", data={"text": TEXT})
        assert (other.status_code, other.json()["error"]["code"]) == (409, "other_model")
        assert "Make it again with `clipbert index build --replace`" in other.text
