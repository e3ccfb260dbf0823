"""The reference decode: what it reports of damage, and that a file opens itself alone."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from clipbert.errors import ClipBertError
from clipbert.video.sequential import Damage, main_stream, open_media, packet_span, shown_frames

MakeVideo = Callable[..., Path]


def packets_of(path: Path) -> list[tuple[int, int]]:
    """(position, size) of every packet."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def test_an_intact_file_reports_nothing(tmp_path: Path, tiny_video: MakeVideo) -> None:
    damage = Damage()
    frames = list(shown_frames(tiny_video(tmp_path / "a.mp4", frames=16, fps=8), damage))
    assert [frame.start for frame in frames] == [index / 8 for index in range(16)]
    assert {frame.length for frame in frames} == {0.125}
    assert not damage
    assert damage.describe() == ""


def test_a_packet_that_cannot_be_decoded_is_counted_with_its_time(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=16, options={"bf": "0"})
    content = bytearray(path.read_bytes())
    place, size = packets_of(path)[8]
    content[place : place + size] = b"\xff" * size
    path.write_bytes(content)
    damage = Damage()
    assert len(list(shown_frames(path, damage))) == 15
    assert damage.packets == 1
    assert damage.first_s == pytest.approx(1.0)
    assert damage.describe().startswith("packets that cannot be decoded: 1; ")


def test_a_picture_that_is_concealed_is_counted(tmp_path: Path, tiny_video: MakeVideo) -> None:
    noise = np.random.default_rng(0)
    path = tiny_video(tmp_path / "a.mp4", frames=16, size=(320, 240), options={"bf": "0", "g": "1"})
    content = bytearray(path.read_bytes())
    place, size = packets_of(path)[4]
    middle = place + size // 2
    content[middle : middle + 40] = noise.bytes(40)
    path.write_bytes(content)
    damage = Damage()
    list(shown_frames(path, damage))
    assert damage
    assert damage.first_s == pytest.approx(0.5, abs=0.13)


def test_the_log_level_of_pyav_is_as_before(tmp_path: Path, tiny_video: MakeVideo) -> None:
    before = av.logging.get_level()
    frames = shown_frames(tiny_video(tmp_path / "a.mp4"))
    next(frames)
    frames.close()
    assert av.logging.get_level() == before


def test_packet_span(tmp_path: Path, tiny_video: MakeVideo) -> None:
    assert packet_span(tiny_video(tmp_path / "a.mp4", frames=20, fps=8)) == pytest.approx(2.5)
    assert packet_span(tiny_video(tmp_path / "b.mkv", frames=20, fps=8, start=40)) == pytest.approx(2.5)


def test_lists_of_files_are_not_opened(tmp_path: Path, tiny_video: MakeVideo) -> None:
    tiny_video(tmp_path / "a.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    with av.open(str(tmp_path / "list.mp4")) as container:
        assert main_stream(container) is not None
    with pytest.raises(av.FFmpegError):
        open_media(tmp_path / "list.mp4")


def test_sound_alone_has_no_main_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ClipBertError, match="no video stream"):
        list(shown_frames(path))
