"""The frame kept for a time is the one on screen then, whatever the container, the decoder, and the shape of pixels."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numbered_videos import number_of, numbered, write_video
from PIL import Image

from clipbert.errors import ClipBertError
from clipbert.sampling.candidates import decode_file, fitted_size
from clipbert.sampling.clips import candidate_times, shown_at
from clipbert.sampling.video_input import read_frames

VARIABLE_MS = [0, 40, 90, 400, 420, 430, 1000, 1900, 1950, 2600, 2640, 2700, 3600, 3650, 3900]


def numbers(path: Path, decoder: str, fps: float = 4.0, max_frames: int = 64) -> tuple[list[int], np.ndarray]:
    frames = decode_file(str(path), decoder, fps, 32, max_frames)
    assert frames.images.dtype == np.uint8
    return [number_of(image) for image in frames.images], frames.times


def test_candidate_times_are_spaced_by_the_rate_and_bounded():
    assert candidate_times(2.0, 2, 64).tolist() == [0.25, 0.75, 1.25, 1.75]
    assert candidate_times(2.3, 2, 64).tolist() == [0.25, 0.75, 1.25, 1.75, 2.25]
    assert candidate_times(0.1, 2, 64).tolist() == [0.05]
    assert candidate_times(0.0, 2, 64).tolist() == [0.0]
    assert candidate_times(8.0, 2, 4).tolist() == [1.0, 3.0, 5.0, 7.0]
    for duration in np.linspace(0, 20, 101):
        times = candidate_times(duration, 3, 16)
        assert 1 <= len(times) <= 16
        assert (times <= duration).all()
        assert (np.diff(times) > 0).all()


def test_the_frame_on_screen_is_the_last_that_started():
    starts = np.array([0.0, 1.0, 1.5, 4.0])
    assert shown_at(starts, np.array([0.0, 0.99, 1.0, 1.6, 3.9, 9.0])).tolist() == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize(("gop", "b_frames"), [(5, 0), (100, 0), (12, 2)])
def test_constant_rate_mp4(tmp_path, decoder, gop, b_frames):
    path = write_video(tmp_path / "v.mp4", [numbered(i) for i in range(37)], gop=gop, b_frames=b_frames)
    found, times = numbers(path, decoder)
    assert times.tolist() == [(i + 0.5) / 4 for i in range(15)]
    assert found == [min(int(time * 10 + 1e-6), 36) for time in times]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_variable_rate_mkv(tmp_path, decoder):
    path = write_video(tmp_path / "v.mkv", [numbered(i) for i in range(len(VARIABLE_MS))], VARIABLE_MS)
    found, times = numbers(path, decoder)
    assert times[0] == 0.125
    assert found == shown_at(np.array(VARIABLE_MS) / 1000, times).tolist()


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("v.avi", "mpeg4", "yuv420p"),
        ("v.gif", "gif", "rgb8"),
        ("v.webm", "libvpx", "yuv420p"),
        ("v.ts", "libx264", "yuv420p"),
    ],
)
def test_other_containers_by_sequential_decode(tmp_path, name, codec, pixels):
    path = write_video(tmp_path / name, [numbered(i) for i in range(30)], codec=codec, pixels=pixels)
    found, times = numbers(path, "pyav", fps=5)
    assert len(times) == 15
    assert found == [int(time * 10 + 1e-6) for time in times]


def test_avi_with_b_frames_has_no_timestamps_and_is_still_right(tmp_path):
    path = write_video(tmp_path / "v.avi", [numbered(i) for i in range(30)], b_frames=2)
    for decoder in ("pyav", "decord"):
        found, times = numbers(path, decoder, fps=5)
        assert found == [int(time * 10 + 1e-6) for time in times]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_more_candidates_than_allowed_are_spread(tmp_path, decoder):
    path = write_video(tmp_path / "v.mp4", [numbered(i) for i in range(40)])
    found, times = numbers(path, decoder, max_frames=4)
    assert times.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert found == [5, 15, 25, 35]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_one_frame_is_enough(tmp_path, decoder):
    path = write_video(tmp_path / "v.mp4", [numbered(3)])
    found, times = numbers(path, decoder, fps=2)
    assert found == [3]
    assert len(times) == 1


def quadrants() -> np.ndarray:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32, 0] = picture[:24, 32:, 1] = picture[24:, :32, 2] = 255
    return picture


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_videos_come_out_upright(tmp_path, decoder, rotation):
    path = write_video(tmp_path / "v.mp4", [quadrants()] * 10, rotation=rotation)
    image = decode_file(str(path), decoder, 2.0, 48, 4).images[0]
    expected = np.rot90(quadrants(), rotation // 90)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 12


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_mirrored_videos_come_out_unmirrored_by_sequential_decode(tmp_path, rotation):
    path = write_video(tmp_path / "v.mp4", [quadrants()] * 10, rotation=rotation, mirrored=True)
    image = decode_file(str(path), "pyav", 2.0, 48, 4).images[0]
    expected = np.rot90(quadrants(), rotation // 90)[:, ::-1]
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 12


def test_pixels_become_square(tmp_path):
    path = write_video(tmp_path / "v.mp4", [numbered(5)] * 10, aspect=Fraction(2, 1))
    assert decode_file(str(path), "pyav", 2.0, 480, 4).images.shape[1:] == (48, 128, 3)
    path = write_video(tmp_path / "w.mp4", [numbered(5)] * 10, aspect=Fraction(2, 1), rotation=90)
    assert decode_file(str(path), "pyav", 2.0, 480, 4).images.shape[1:] == (128, 48, 3)


def test_short_side_is_fitted_and_never_enlarged(tmp_path):
    assert fitted_size(640, 480, 112) == (149, 112)
    assert fitted_size(480, 640, 112) == (112, 149)
    assert fitted_size(100, 80, 112) == (100, 80)
    assert fitted_size(1, 1, 112) == (1, 1)
    path = write_video(tmp_path / "v.mp4", [numbered(5)] * 3)
    assert decode_file(str(path), "decord", 2.0, 24, 4).images.shape[1:] == (24, 32, 3)
    assert decode_file(str(path), "decord", 2.0, 999, 4).images.shape[1:] == (48, 64, 3)


def test_decord_and_pyav_give_the_same_pixels(tmp_path):
    path = write_video(tmp_path / "v.mp4", [numbered(i) for i in range(30)], b_frames=2)
    a, b = (decode_file(str(path), decoder, 3.0, 32, 64) for decoder in ("decord", "pyav"))
    assert np.allclose(a.times, b.times)
    assert (a.images == b.images).all()


def test_images_are_one_upright_frame(tmp_path):
    path = tmp_path / "i.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: to be turned clockwise
    Image.fromarray(quadrants()).save(path, exif=exif, quality=95, subsampling=0)
    frames = decode_file(str(path), "pil", 2.0, 480, 64)
    assert frames.times.tolist() == [0.0]
    expected = np.rot90(quadrants(), -1)
    assert frames.images.shape == (1, *expected.shape)
    assert np.abs(frames.images[0].astype(int) - expected).mean() < 6


def test_transparent_and_deep_images_keep_their_looks(tmp_path):
    clear = np.zeros((40, 40, 4), np.uint8)
    clear[:20] = [200, 0, 0, 255]
    Image.fromarray(clear).save(tmp_path / "clear.png")
    image = decode_file(str(tmp_path / "clear.png"), "pil", 2.0, 40, 1).images[0]
    assert image[5, 5].tolist() == [200, 0, 0]
    assert image[35, 5].tolist() == [255, 255, 255]
    Image.fromarray(np.full((40, 40), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert decode_file(str(tmp_path / "deep.png"), "pil", 2.0, 40, 1).images[0, 5, 5].tolist() == [128] * 3


@pytest.mark.slow
def test_read_frames_decodes_in_another_process(tmp_path):
    path = write_video(tmp_path / "v.mp4", [numbered(i) for i in range(20)])
    frames = read_frames(path, fps=2.0, size=32, max_frames=8, timeout_s=30)
    assert [number_of(image) for image in frames.images] == [2, 7, 12, 17]
    Image.fromarray(numbered(9)).save(tmp_path / "i.png")
    assert number_of(read_frames(tmp_path / "i.png", 2.0, 32, 8, 30).images[0]) == 9


@pytest.mark.slow
def test_what_cannot_be_decoded_says_so(tmp_path):
    with pytest.raises(ClipBertError, match=r"v\.mp4: no such file"):
        decode_file(str(tmp_path / "v.mp4"), "decord", 2.0, 32, 8)
    for name, content in [("text.mp4", b"not a video " * 50), ("empty.mp4", b""), ("text.jpg", b"no picture")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipBertError, match=f"{name}: cannot be decoded"):
            decode_file(str(tmp_path / name), "pil" if name.endswith("jpg") else "decord", 2.0, 32, 8)
    with pytest.raises(ClipBertError, match=r"text\.mp4: cannot be decoded"):
        read_frames(tmp_path / "text.mp4", 2.0, 32, 8, timeout_s=30)


@pytest.mark.slow
def test_a_decode_over_its_time_is_killed(tmp_path):
    # Long enough that its frames cannot be there before the limit is looked at.
    path = write_video(tmp_path / "v.mp4", [numbered(i % 20) for i in range(1500)])
    with pytest.raises(ClipBertError, match=r"v\.mp4: cannot be decoded: .*took longer than 0\.001 s"):
        read_frames(path, fps=2.0, size=32, max_frames=8, timeout_s=0.001)


@pytest.mark.slow
def test_importing_the_cache_needs_no_decoder():
    code = (
        "import sys, clipbert.frame_cache, clipbert.frame_cache.reader, clipbert.sampling.clips\n"
        "heavy = {'av', 'decord', 'torch', 'mlflow', 'prefect', 'dvc', 'great_expectations'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
