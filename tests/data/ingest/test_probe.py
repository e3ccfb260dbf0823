"""What real files of many kinds are said to be, and why broken ones are rejected."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import av
import decord
import numpy as np
import pytest
from PIL import Image

from clipbert.data.ingest.probe import MediaInfo, Rejected, probe

MakeVideo = Callable[..., Path]


def good(path: Path) -> MediaInfo:
    found = probe(str(path.parent), path.name)
    assert isinstance(found, MediaInfo), found
    return found


def bad(path: Path) -> Rejected:
    found = probe(str(path.parent), path.name)
    assert isinstance(found, Rejected), found
    return found


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_mp4(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=20, fps=10)
    found = good(path)
    assert (found.kind, found.container, found.codec) == ("video", "mp4", "h264")
    assert (found.width, found.height, found.rotation) == (64, 48, 0)
    assert (found.fps, found.num_frames) == (10.0, 20)
    assert found.duration_s == pytest.approx(2.0)
    assert found.path_taken == "decord"
    assert found.bytes == path.stat().st_size
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "container", "said", "decoder"),
    [
        ("a.mkv", "libx264", "yuv420p", "matroska", "h264", "decord"),
        ("a.mov", "libx264", "yuv420p", "mov", "h264", "decord"),
        ("a.webm", "libvpx-vp9", "yuv420p", "webm", "vp9", "decord"),
        ("a.avi", "mpeg4", "yuv420p", "avi", "mpeg4", "pyav"),
        ("a.mp4", "mpeg4", "yuv420p", "mp4", "mpeg4", "pyav"),
        ("a.ts", "libx264", "yuv420p", "mpegts", "h264", "pyav"),
        ("a.mpg", "mpeg1video", "yuv420p", "mpeg", "mpeg1video", "pyav"),
        ("a.gif", "gif", "rgb8", "gif", "gif", "pyav"),
    ],
)
def test_containers_and_codecs(
    tmp_path: Path,
    tiny_video: MakeVideo,
    name: str,
    codec: str,
    pix_fmt: str,
    container: str,
    said: str,
    decoder: str,
) -> None:
    found = good(tiny_video(tmp_path / name, codec=codec, pix_fmt=pix_fmt, fps=25, frames=50))
    assert (found.container, found.codec, found.path_taken) == (container, said, decoder)
    assert found.num_frames == 50
    assert found.duration_s == pytest.approx(2.0, abs=0.05)
    assert found.fps == pytest.approx(25, rel=0.03)


def test_suffix_does_not_matter(tmp_path: Path, tiny_video: MakeVideo) -> None:
    tiny_video(tmp_path / "a.avi", codec="mpeg4").rename(tmp_path / "b.mp4")
    assert good(tmp_path / "b.mp4").container == "avi"


def test_size_is_upright(tmp_path: Path, tiny_video: MakeVideo) -> None:
    found = good(tiny_video(tmp_path / "a.mp4", size=(128, 96), rotation=90))
    assert (found.width, found.height, found.rotation) == (96, 128, 90)


def test_mirrored_goes_to_pyav(tmp_path: Path, tiny_video: MakeVideo) -> None:
    found = good(tiny_video(tmp_path / "a.mp4", mirrored=True))
    assert found.path_taken == "pyav"
    assert "mirrored" in found.path_reason


def test_size_has_square_pixels(tmp_path: Path, tiny_video: MakeVideo) -> None:
    found = good(tiny_video(tmp_path / "a.mp4", pixel_aspect=2))
    assert (found.width, found.height) == (128, 48)


def test_frame_shape_decord_gets_wrong_goes_to_pyav(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.mp4", size=(16, 16))
    assert decord.VideoReader(str(path), num_threads=1)[0].shape != (16, 16, 3)
    found = good(path)
    assert found.path_taken == "pyav"
    assert "decord cannot decode it" in found.path_reason


def test_edit_list_goes_to_pyav(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=16, fps=8, start=-4)
    with av.open(str(path)) as container:
        shown = sum(1 for _ in container.decode(video=0))
    assert (shown, len(decord.VideoReader(str(path), num_threads=1))) == (12, 16)
    found = good(path)
    assert (found.path_taken, found.num_frames) == ("pyav", 12)
    assert "edit list hides 4 frames" in found.path_reason
    assert found.duration_s == pytest.approx(1.5)


def test_open_groups_of_pictures_go_to_pyav(tmp_path: Path, tiny_video: MakeVideo) -> None:
    options = {"x265-params": "log-level=none:keyint=8:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
    found = good(tiny_video(tmp_path / "a.mp4", codec="libx265", options=options))
    assert found.path_taken == "pyav"
    assert "open groups" in found.path_reason


def test_one_frame(tmp_path: Path, tiny_video: MakeVideo) -> None:
    found = good(tiny_video(tmp_path / "a.mp4", frames=1))
    assert found.num_frames == 1
    assert found.duration_s == pytest.approx(0.125)


def test_metadata_that_is_not_utf8(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.avi", codec="mpeg4")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Lavf", b"\xd3\xff\xfef"))
    assert good(path).codec == "mpeg4"


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert bad(tmp_path / "a.mp4") == Rejected("unreadable", "the file is empty (0 bytes)")


@pytest.mark.parametrize("content", [b"this is a text, not a video\n" * 50, np.random.default_rng(0).bytes(5000)])
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    found = bad(tmp_path / "a.mp4")
    assert found.reason == "unreadable"
    assert str(tmp_path) not in found.detail


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_mp4_without_its_index(tmp_path: Path, tiny_video: MakeVideo, share: float) -> None:
    found = bad(cut(tiny_video(tmp_path / "a.mp4"), share))
    assert found.reason == "unreadable"
    assert "index is missing" in found.detail


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_mp4_cut_off_after_its_index(tmp_path: Path, tiny_video: MakeVideo, share: float) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=40, container_options={"movflags": "faststart"})
    content = path.read_bytes()
    start = content.index(b"mdat")
    path.write_bytes(content[: start + int((len(content) - start) * share)])
    assert bad(path).reason == "truncated"


def test_mkv_cut_off(tmp_path: Path, tiny_video: MakeVideo) -> None:
    found = bad(cut(tiny_video(tmp_path / "a.mkv", frames=40, options={"g": "4"}), 0.6))
    assert found.reason == "truncated"
    assert "its header says 5.0 s" in found.detail


def test_damaged_frames(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=40)
    with av.open(str(path)) as container:
        late = [packet for packet in container.demux(video=0) if packet.size][20:]
    content = bytearray(path.read_bytes())
    for packet in late:
        content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(content)
    found = bad(path)
    assert found.reason == "truncated"
    assert "after 2.6 of 5.0 s no frame can be decoded (packets that cannot be decoded: 20" in found.detail
    assert found.first_bad_s == pytest.approx(2.5, abs=0.2)


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert bad(path) == Rejected("no_video_stream", "holds only audio")


def test_missing(tmp_path: Path) -> None:
    assert bad(tmp_path / "a.mp4") == Rejected("unreadable", "No such file or directory")


def test_image(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    found = good(tmp_path / "a.png")
    assert (found.kind, found.container, found.width, found.height) == ("image", "png", 40, 30)
    assert (found.num_frames, found.duration_s, found.path_taken) == (1, 1.0, "pil")


def test_image_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.jpg", exif=exif)
    found = good(tmp_path / "a.jpg")
    assert (found.width, found.height, found.rotation) == (30, 40, 270)


def test_broken_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    assert bad(cut(tmp_path / "a.jpg", 0.5)).reason == "truncated"
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert bad(tmp_path / "b.jpg") == Rejected("unreadable", "not an image of a known format")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_image_too_large_to_decode(tmp_path: Path) -> None:
    Image.new("1", (11_000, 11_000)).save(tmp_path / "a.png")
    found = bad(tmp_path / "a.png")
    assert found.reason == "too_large"
    assert "11000x11000" in found.detail
