"""decord behind a watch: right frames by number, and no belief in what it says under protest."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from clipbert.video.random_access import NotExactError, RandomAccess

MakeVideo = Callable[..., Path]


def bar(picture: np.ndarray) -> int:
    """The number of the frame in a picture of `tiny_video`: its white columns less one."""
    return int((picture[10].min(axis=1) > 200).sum()) - 1


def test_frames_by_number(tmp_path: Path, tiny_video: MakeVideo) -> None:
    video = RandomAccess(tiny_video(tmp_path / "a.mp4", frames=16, fps=8, options={"crf": "1", "g": "5"}))
    assert len(video) == 16
    assert video.starts.tolist() == [index / 8 for index in range(16)]
    assert video.duration == 2.0
    assert [bar(picture) for picture in video.read(np.array([12, 3, 3, 15, 0]))] == [12, 3, 3, 15, 0]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(NotExactError, match="decord cannot decode it"):
        RandomAccess(tmp_path / "a.mp4")
    with pytest.raises(NotExactError):
        RandomAccess(tmp_path / "none.mp4")


def test_a_complaint_of_its_decoder_is_no_answer(
    tmp_path: Path, tiny_video: MakeVideo, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=16, size=(320, 240), options={"g": "1"})
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][8]
    content = bytearray(path.read_bytes())
    middle = packet.pos + packet.size // 2
    content[middle : middle + 40] = os.urandom(40)
    path.write_bytes(content)
    with pytest.raises(NotExactError, match=r"its decoder reports: \[h264\]|cannot decode it"):
        list(RandomAccess(path).read(np.arange(16)))
    assert "h264" not in capfd.readouterr().err
