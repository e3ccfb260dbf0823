"""A moment as a file: the frames inside it, upright, in a file that decodes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clipbert.errors import ClipBertError
from clipbert.search.moment import encode_part, play, write_moment
from clipbert.video.sequential import shown_frames

LIMITS = (60.0, 4096)


def bars(path: Path) -> list[tuple[float, int]]:
    """Return the time of each frame and the width of its white bar, which `tiny_video` draws i + 1 pixels wide."""
    found = []
    for shown in shown_frames(str(path)):
        row = shown.upright()[shown.upright().shape[0] // 2]
        found.append((round(shown.start, 3), int((row.min(axis=1) > 225).sum())))
    return found


def test_the_frames_of_the_moment(tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    video = tiny_video(tmp_path / "a.mp4", frames=32, fps=8)
    encode_part(str(video), 1.0, 2.0, str(tmp_path / "out.mp4"))
    found = bars(tmp_path / "out.mp4")
    assert [time for time, _ in found] == [pytest.approx(i / 8, abs=2e-3) for i in range(8)]
    assert [width for _, width in found] == pytest.approx(list(range(9, 17)), abs=1)


def test_the_frame_on_screen_at_the_start_comes_first(tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    video = tiny_video(tmp_path / "a.mp4", frames=16, fps=8)
    encode_part(str(video), 0.3, 0.55, str(tmp_path / "out.mp4"))  # frames start at 0.25, 0.375 and 0.5 s
    assert [width for _, width in bars(tmp_path / "out.mp4")] == pytest.approx([3, 4, 5], abs=1)
    encode_part(str(video), 5.0, 6.0, str(tmp_path / "last.mp4"))
    assert len(bars(tmp_path / "last.mp4")) == 1  # the last frame stays on screen


@pytest.mark.slow
def test_odd_sizes_rotation_and_other_containers(tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    video = tiny_video(tmp_path / "a.mp4", rotation=90)
    write_moment(video, 0.0, 1.0, tmp_path / "out.mkv", *LIMITS)
    (first, *_) = shown_frames(str(tmp_path / "out.mkv"))
    assert first.upright().shape[:2] == (64, 48)  # of 64x48 turned upright


@pytest.mark.slow
def test_wrong_outputs_and_sources(tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    video = tiny_video(tmp_path / "a.mp4")
    with pytest.raises(ClipBertError, match=r"out\.avi: expected a file name that ends in \.mp4 or \.mkv or \.mov"):
        write_moment(video, 0, 1, tmp_path / "out.avi", *LIMITS)
    with pytest.raises(ClipBertError, match=r"the folder .* does not exist"):
        write_moment(video, 0, 1, tmp_path / "no" / "out.mp4", *LIMITS)
    with pytest.raises(ClipBertError, match="not found"):
        write_moment(tmp_path / "gone.mp4", 0, 1, tmp_path / "out.mp4", *LIMITS)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ClipBertError, match=r"broken\.mp4"):
        write_moment(tmp_path / "broken.mp4", 0, 1, tmp_path / "out.mp4", *LIMITS)
    assert not (tmp_path / "out.mp4").exists()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write_moment(tmp_path / "a.png", 0, 0, tmp_path / "b.png", *LIMITS)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_no_player(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClipBertError, match=r"is not installed here\. Write the moment with --clip"):
        play(tmp_path / "a.mp4")
