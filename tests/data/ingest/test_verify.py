"""The proof that decord and a sequential decode agree, on files where they do and where they do not."""

from collections.abc import Callable
from pathlib import Path

import av
import pytest

from clipbert.data.ingest.probe import MediaInfo, probe
from clipbert.data.ingest.verify import NotEqualError, compare_decoders
from clipbert.video.random_access import NotExactError

MakeVideo = Callable[..., Path]


def info(path: Path, verify: str) -> MediaInfo:
    found = probe(str(path.parent), path.name, verify=verify)
    assert isinstance(found, MediaInfo), found
    return found


def test_equal(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=40)
    assert compare_decoders(str(path), 24) == 24
    assert compare_decoders(str(path), 96) == 40
    assert compare_decoders(str(tiny_video(tmp_path / "b.mp4", frames=1)), 24) == 1


def test_an_edit_list_that_decord_ignores(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=16, start=-4)
    with pytest.raises(NotEqualError, match="decord counts 16 frames, 12 can be decoded"):
        compare_decoders(str(path), 24)


def test_open_groups_of_pictures(tmp_path: Path, tiny_video: MakeVideo) -> None:
    options = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=8"}
    path = tiny_video(tmp_path / "a.mp4", frames=48, options=options)
    with pytest.raises((NotEqualError, NotExactError)):
        compare_decoders(str(path), 24)


def test_a_picture_that_was_lost(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=40, options={"bf": "0"})
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][23]
    content = bytearray(path.read_bytes())
    content[packet.pos + 4] |= 31  # the type of its unit: one that every decoder passes over
    path.write_bytes(content)
    with pytest.raises((NotEqualError, NotExactError)):
        compare_decoders(str(path), 24)
    found = info(path, "always")
    assert found.path_taken == "pyav"
    assert found.damage == "packets that cannot be decoded: 1; Invalid data found when processing input"
    assert found.first_bad_s == pytest.approx(23 / 8)


def test_which_files_are_compared(tmp_path: Path, tiny_video: MakeVideo) -> None:
    plain, late = tiny_video(tmp_path / "a.mp4"), tiny_video(tmp_path / "b.mkv", start=16)
    assert "compared" not in info(plain, "never").path_reason
    assert "compared" not in info(plain, "suspicious").path_reason
    assert "16 frames compared with a sequential decode: equal" in info(plain, "always").path_reason
    assert "compared" not in info(late, "never").path_reason
    assert "for it starts at 2.00 s: equal" in info(late, "suspicious").path_reason
