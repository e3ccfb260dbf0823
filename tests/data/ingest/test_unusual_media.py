"""Interlaced and HDR video, changing frame sizes, joined files and animated images: what is flagged, and the pixels."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from clipbert.config.data import IngestParams
from clipbert.data.ingest.probe import MediaInfo, probe
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_videos
from clipbert.sampling.candidates import Frames, decode_file

PQ, HLG, BT709 = 16, 18, 1
ALL = 64


def gray(number: int, width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 40 + 8 * number, np.uint8)


def encoded(codec: str, pictures: list[np.ndarray], first: int = 0, **settings: Any) -> list[av.Packet]:
    encoder = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width, _ = pictures[0].shape
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 10), Fraction(10)
    encoder.max_b_frames = 0
    for name, value in settings.items():
        setattr(encoder, name, value)
    packets = []
    for number, picture in enumerate(pictures, start=first):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 10)
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def write(path: Path, codec: str, packets: list[av.Packet], **settings: Any) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for packet in packets:
            packet.stream, packet.time_base = stream, Fraction(1, 10)
            container.mux(packet)
    return path


def probed(path: Path, verify: str = "always") -> MediaInfo:
    found = probe(str(path.parent), path.name, verify=verify)
    assert isinstance(found, MediaInfo), found
    return found


def decoded(path: Path, info: MediaInfo) -> Frames:
    return decode_file(str(path), info.path_taken, 10.0, 48, ALL)


def test_an_ordinary_video_has_no_remark(tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    assert probed(tiny_video(tmp_path / "a.mp4", frames=20, fps=10)).remarks is None


@pytest.mark.parametrize("verify", ["always", "never"])
def test_interlaced_video_is_flagged_and_keeps_both_fields(tmp_path: Path, verify: str) -> None:
    combed = np.zeros((48, 64, 3), np.uint8)
    combed[0::2, :32] = combed[1::2, 32:] = 255
    interlaced = {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}
    path = write(
        tmp_path / "a.mp4", "libx264", encoded("libx264", [combed] * 10, options=interlaced), options=interlaced
    )
    info = probed(path, verify)
    assert info.remarks == "interlaced: not deinterlaced, moving edges show combs"
    images = decoded(path, info).images
    assert images.shape == (10, 48, 64, 3)
    rows = images[5, :, :28].mean(axis=(1, 2))
    assert rows[0::2].mean() > 230
    assert rows[1::2].mean() < 25


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_hdr_is_flagged_and_not_tone_mapped(tmp_path: Path, transfer: int, name: str) -> None:
    pictures = [gray(number, 64, 48) for number in range(10)]
    settings = {"pix_fmt": "yuv420p10le", "color_primaries": 9, "color_trc": transfer, "colorspace": 9}
    path = write(tmp_path / "a.mp4", "libx264", encoded("libx264", pictures, **settings), **settings)
    info = probed(path)
    assert info.remarks == f"HDR ({name}): not tone-mapped, contrast and colors look flat"
    means = decoded(path, info).images.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, [40 + 8 * number for number in range(10)], atol=4)


@pytest.mark.parametrize(
    ("file", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx"), ("b.webm", "libvpx-vp9")]
)
@pytest.mark.parametrize("second", [(128, 96), (48, 64)])
def test_a_change_of_resolution_is_flagged_and_every_frame_is_right(
    tmp_path: Path, file: str, codec: str, second: tuple[int, int]
) -> None:
    before = [gray(number, 64, 48) for number in range(10)]
    after = [gray(number, *second) for number in range(10, 20)]
    path = write(tmp_path / file, codec, encoded(codec, before) + encoded(codec, after, first=10))
    info = probed(path)
    assert (info.width, info.height, info.num_frames, info.path_taken) == (64, 48, 20, "pyav")
    assert info.remarks == (
        f"its frames have several sizes (64x48, {second[0]}x{second[1]}): all are resized to the first"
    )
    frames = decoded(path, info)
    assert frames.images.shape == (20, 48, 64, 3)
    np.testing.assert_allclose(frames.images.mean(axis=(1, 2, 3)), [40 + 8 * n for n in range(20)], atol=4)


def test_files_joined_without_new_time_stamps_are_flagged(tmp_path: Path) -> None:
    parts = []
    for name in ("1.ts", "2.ts"):
        pictures = [gray(number, 64, 48) for number in range(20)]
        parts.append(write(tmp_path / name, "libx264", encoded("libx264", pictures)).read_bytes())
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    assert "its time stamps start over" in (probed(path).remarks or "")
    assert probed(tmp_path / "1.ts").remarks is None


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_of_an_animated_image_the_first_picture_is_used(tmp_path: Path, suffix: str) -> None:
    pictures = [Image.new("RGB", (64, 48), color) for color in ("red", "lime", "blue")]
    path = tmp_path / f"a{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=500, lossless=True)
    info = probed(path)
    assert (info.kind, info.num_frames, info.duration_s) == ("image", 1, 1.0)
    assert info.remarks == "holds 3 pictures: the first is used"
    images = decoded(path, info).images
    assert images.shape == (1, 48, 64, 3)
    assert images[0].reshape(-1, 3).mean(axis=0).tolist() == [255.0, 0.0, 0.0]


@pytest.mark.slow
def test_ingest_lists_the_remarks_and_writes_them_to_the_manifest(data: Path, tmp_path: Path) -> None:
    (data / "images").mkdir(exist_ok=True)
    pictures = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    pictures[0].save(data / "images" / "a.webp", save_all=True, append_images=pictures[1:])
    summary = ingest(data, tmp_path / "manifest", IngestParams())
    assert "frames differ from what a player shows: 1 (column remarks of the videos table)" in summary.lines()
    assert "  images/a.webp: holds 2 pictures: the first is used" in summary.lines()
    videos = read_videos(tmp_path / "manifest").set_index("media")
    assert videos.loc["images/a.webp", "remarks"] == "holds 2 pictures: the first is used"
    assert videos["remarks"].notna().sum() == 1
