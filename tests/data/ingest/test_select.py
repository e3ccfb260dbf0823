"""Which files are media, and that nothing outside data/ is opened."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from canonical_data import LENIENT, PARAMS, caption, quarantine

from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_texts, read_videos

pytestmark = pytest.mark.slow

MakeVideo = Callable[..., Path]


def test_other_files_are_left_alone(tmp_path: Path, data: Path) -> None:
    for name in ("README.md", "videos/.hidden.mp4", ".cache/a.mp4", "videos/notes.txt"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("no video")
    summary = ingest(data, tmp_path / "out", PARAMS)
    assert summary.ignored_files == 2
    assert len(read_videos(tmp_path / "out")) == 4


def test_a_named_file_of_unknown_type_is_media(tmp_path: Path, data: Path) -> None:
    (data / "videos" / "0.mp4").rename(data / "videos" / "0.bin")
    caption(data, media="videos/0.bin")
    ingest(data, tmp_path / "out", PARAMS)
    assert "videos/0.bin" in set(read_videos(tmp_path / "out")["media"])


def test_a_hidden_file_that_a_text_names_is_media(tmp_path: Path, data: Path) -> None:
    (data / "videos" / ".0.mp4").write_bytes((data / "videos" / "0.mp4").read_bytes() + b"0")
    (data / "videos" / ".not_named.mp4").write_bytes(b"no video")
    (data / ".hidden").mkdir()
    (data / ".hidden" / "1.mp4").write_bytes((data / "videos" / "1.mp4").read_bytes() + b"1")
    for number, name in enumerate(("videos/.0.mp4", ".hidden/1.mp4", "videos/.gone.mp4")):
        caption(data, id=f"hidden{number}", media=name)
    summary = ingest(data, tmp_path / "out", PARAMS)
    assert {"videos/.0.mp4", ".hidden/1.mp4"} <= set(read_videos(tmp_path / "out")["media"])
    assert {"hidden0", "hidden1"} <= set(read_texts(tmp_path / "out")["id"])
    assert summary.dropped_texts == {"media missing": 1}


def test_a_named_file_behind_a_linked_folder_is_not_called_missing(
    tmp_path: Path, data: Path, tiny_video: MakeVideo
) -> None:
    outside = tiny_video(tmp_path / "elsewhere" / "a.mp4")
    (data / "videos" / "out").symlink_to(outside.parent)
    (data / "again").symlink_to(data / "videos")
    caption(data, id="out", media="videos/out/a.mp4")
    caption(data, id="in", media="again/0.mp4", split="train")
    summary = ingest(data, tmp_path / "out", LENIENT)
    assert summary.dropped_texts == {"media quarantined: unsupported_path": 1}
    assert "leads out of" in summary.quarantined["videos/out/a.mp4"].detail
    assert "in" in set(read_texts(tmp_path / "out")["id"])


def test_links(tmp_path: Path, data: Path, tiny_video: MakeVideo) -> None:
    outside = tiny_video(tmp_path / "elsewhere" / "a.mp4")
    (data / "videos" / "inside.mp4").symlink_to(data / "videos" / "0.mp4")
    (data / "videos" / "outside.mp4").symlink_to(outside)
    (data / "videos" / "folder").symlink_to(outside.parent)
    (data / "videos" / "self").symlink_to(data)
    (data / "videos" / "nothing.mp4").symlink_to(data / "gone.mp4")
    ingest(data, tmp_path / "out", LENIENT)
    assert quarantine(tmp_path / "out") == {
        "videos/folder": "unsupported_path",
        "videos/nothing.mp4": "unsupported_path",
        "videos/outside.mp4": "unsupported_path",
    }
    assert len(read_videos(tmp_path / "out")) == 5


def test_odd_names(tmp_path: Path, data: Path) -> None:
    os.mkfifo(data / "videos" / "pipe.mp4")
    os.link(data / "videos" / "0.mp4", os.fsencode(data / "videos") + b"/caf\xe9.mp4")
    good = ["-rf.mp4", "a..b?.mp4", "日本 語 😀.mp4", "x" * 251 + ".mp4", "a:b|c;d$(e) `f`.mp4"]
    for number, name in enumerate([*good, "two\nlines.mp4"]):
        content = (data / "videos" / "0.mp4").read_bytes() + bytes(number + 1)
        (data / "videos" / name).write_bytes(content)
    ingest(data, tmp_path / "out", LENIENT)
    assert quarantine(tmp_path / "out") == {
        "videos/caf\\xe9.mp4": "unsupported_path",
        "videos/pipe.mp4": "unsupported_path",
        "videos/two\\nlines.mp4": "unsupported_path",
    }
    assert {f"videos/{name}" for name in good} <= set(read_videos(tmp_path / "out")["media"])


def test_a_list_of_other_files_opens_none_of_them(tmp_path: Path, data: Path, tiny_video: MakeVideo) -> None:
    outside = tiny_video(tmp_path / "secret.mp4")
    tiny_video(data / "videos" / "0.mp4")
    lists = {
        "concat.mp4": "ffconcat version 1.0\nfile 0.mp4\n",
        "hls.ts": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{outside}\n#EXT-X-ENDLIST\n",
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n",
    }
    for name, content in lists.items():
        (data / "videos" / name).write_text(content)
    (data / "videos" / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    summary = ingest(data, tmp_path / "out", LENIENT)
    assert set(quarantine(tmp_path / "out").values()) == {"unreadable"}
    assert len(summary.quarantined) == 4
    assert "a playlist of other files" in summary.quarantined["videos/concat.mp4"].detail
