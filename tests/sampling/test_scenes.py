"""Frames follow the picture in a long video, within the uniform budget, the same each time; else they are uniform."""

from pathlib import Path

import numpy as np
import pytest
from numbered_videos import write_video

from clipbert.sampling import low_resolution_scan as survey
from clipbert.sampling.candidates import decode_file
from clipbert.sampling.clips import candidate_times
from clipbert.sampling.scenes import around_peaks, choose_times, over_scenes
from clipbert.sampling.transients import camera_path, cuts, transient_strengths
from clipbert.video.sequential import main_stream, open_media

EVENT = range(445, 455)


def scene(seed: int, level: int = 90) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(-30, 30, (6, 8)) + level
    return np.repeat(np.repeat(coarse, 12, 0), 12, 1).clip(0, 255)


def pictures(seed: int = 0, event: bool = True) -> list[np.ndarray]:
    """60 seconds at 10 a second of a still scene with noise; for one second a bright square stands in it."""
    generator, still = np.random.default_rng(seed), scene(0)
    made = []
    for index in range(600):
        picture = still + generator.normal(0, 2, still.shape)
        if event and index in EVENT:
            picture[30:42, 40:52] = 235
        made.append(np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2))
    return made


@pytest.fixture(scope="module", params=[("v.mp4", 50, 0), ("v.mkv", 50, 2)], ids=["mp4", "mkv with B-frames"])
def eventful(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, gop, b_frames = request.param
    return write_video(tmp_path_factory.mktemp("eventful") / name, pictures(), gop=gop, b_frames=b_frames)


def test_a_second_in_a_minute_is_among_eight(eventful):
    times = choose_times(str(eventful), 60.0, 1.0, 8, "adaptive")
    assert len(times) == 8
    assert (np.diff(times) > 0).all()
    assert ((times >= 44.5) & (times < 45.5)).any()
    assert not ((candidate_times(60.0, 1.0, 8) >= 44.5) & (candidate_times(60.0, 1.0, 8) < 45.5)).any()
    assert (times == choose_times(str(eventful), 60.0, 1.0, 8, "adaptive")).all()


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_the_event_is_in_the_decoded_frames(eventful, decoder):
    frames = decode_file(str(eventful), decoder, 1.0, 72, 8, "adaptive")
    assert len(frames.times) == len(frames.images) == 8
    inside = (frames.times >= 44.5) & (frames.times < 45.5)
    assert inside.any()
    bright = frames.images[:, 33:39, 43:49].mean(axis=(1, 2, 3)) > 180
    assert bright.tolist() == inside.tolist()


def test_with_nothing_to_see_gaps_stay_near_the_uniform_ones(tmp_path):
    path = write_video(tmp_path / "v.mp4", pictures(event=False)[:300], gop=50)
    times = choose_times(str(path), 30.0, 1.0, 8, "adaptive")
    assert len(times) == 8
    assert np.diff(times).max() <= 2 * 30 / 8 + 1e-9


def test_each_scene_gets_one_before_any_gets_two(tmp_path):
    shown = [
        scene(seed, level)[..., None].repeat(3, 2).astype(np.uint8) for seed, level in enumerate((60, 190, 110, 220))
    ]
    lengths = (260, 60, 50, 30)
    video = [picture for picture, length in zip(shown, lengths, strict=True) for _ in range(length)]
    path = write_video(tmp_path / "v.mp4", video, gop=50)
    times = choose_times(str(path), 40.0, 1.0, 5, "scene")
    counts, _ = np.histogram(times, [0, 26, 32, 37, 40])
    assert counts.tolist() == [2, 1, 1, 1]


def test_uniform_and_close_candidates_are_the_candidate_times(eventful):
    for sampling, fps, most in (("uniform", 1.0, 8), ("adaptive", 2.0, 256), ("scene", 1.0, 60)):
        assert (choose_times(str(eventful), 60.0, fps, most, sampling) == candidate_times(60.0, fps, most)).all()


@pytest.mark.parametrize("sampling", ["scene", "adaptive"])
def test_what_cannot_be_surveyed_is_uniform(tmp_path, sampling):
    (tmp_path / "text.mp4").write_text("no video")
    for path in (tmp_path / "text.mp4", tmp_path / "missing.mp4"):
        assert (choose_times(str(path), 60.0, 1.0, 4, sampling) == candidate_times(60.0, 1.0, 4)).all()


@pytest.mark.parametrize(
    ("name", "codec", "gop"), [("v.mp4", "libx264", 600), ("v.avi", "libx264", 50), ("v.mkv", "mjpeg", 1)]
)
@pytest.mark.parametrize("sampling", ["scene", "adaptive"])
def test_one_key_frame_and_only_key_frames_and_avi(tmp_path, name, codec, gop, sampling):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / name, pictures()[:200], codec=codec, gop=gop, pixels=pixels)
    times = choose_times(str(path), 20.0, 1.0, 6, sampling)
    assert len(times) == 6
    assert (np.diff(times) > 0).all()
    assert times[0] >= 0
    assert times[-1] < 20


def test_one_frame_and_damage(tmp_path):
    one = write_video(tmp_path / "one.mp4", pictures()[:1])
    assert choose_times(str(one), 0.1, 2.0, 8, "adaptive").tolist() == [0.05]
    whole = write_video(tmp_path / "whole.ts", pictures()[:200], gop=50)
    data = bytearray(whole.read_bytes())
    for place in np.random.default_rng(0).integers(2000, len(data), 200):
        data[place] ^= 0x55
    damaged = tmp_path / "damaged.ts"
    damaged.write_bytes(data)
    times = choose_times(str(damaged), 20.0, 1.0, 6, "adaptive")
    assert len(times) == 6
    assert (np.diff(times) > 0).all()


def test_peaks_come_first_and_gaps_last():
    times = around_peaks([[50.5, 70.5], [50.6, 90.5]], 100.0, 8)
    assert {50.5, 70.5, 90.5} <= set(times.tolist())
    assert 50.6 not in times
    assert len(times) == 8


def test_more_scenes_than_frames_keep_the_longest():
    assert over_scenes(np.array([10.0, 12.0, 20.0]), 21.0, 2).tolist() == [5.0, 16.0]


def landscape(width: int) -> np.ndarray:
    coarse = np.random.default_rng(3).integers(200, 800, (12, width // 4 + 1))
    return np.repeat(np.repeat(coarse, 4, 0), 4, 1)[:, :width]


def test_a_cut_is_no_passing_thing_and_ends_a_shot():
    cells = np.full((40, 48, 86), 320, np.int16)
    cells[20:] = 640
    assert cuts(cells).tolist() == [20]
    cells[8:10, 4:8, 4:8] += 240
    for strengths in transient_strengths(cells):
        assert set(np.argsort(strengths)[-2:]) == {8, 9}
        assert (strengths[[18, 19, 20, 21]] == 0).all()


def test_what_sways_has_a_habit():
    cells = np.full((80, 48, 86), 320, np.int16)
    for index in range(80):
        side = 20 if index % 3 else 40
        cells[index, 20:30, side : side + 8] = 640
    cells[50:52, 40:44, 70:74] = 480
    for strengths in transient_strengths(cells):
        assert set(np.argsort(strengths)[-2:]) == {50, 51}


@pytest.mark.parametrize("step", [2, -3])
def test_the_cameras_motion_is_taken_away(step):
    wide = landscape(86 + 40 * abs(step))
    places = np.arange(40) * step + (0 if step > 0 else 39 * abs(step))
    cells = np.stack([wide[:, place : place + 86] for place in places]).astype(np.int16)
    x, y = camera_path(cells, cuts(cells))
    # camera() says where a picture's cells lay in the ones before
    assert x.tolist() == (np.arange(40) * step).tolist()
    assert not y.any()
    cells[25:27, 20:25, 40:45] += 120
    for strengths in transient_strengths(cells):
        assert set(np.argsort(strengths)[-2:]) == {25, 26}
        assert strengths[15] == 0


def test_times_out_of_order_are_uniform(tmp_path):
    path = write_video(tmp_path / "v.avi", pictures()[:200], codec="mpeg4", gop=50, b_frames=2)
    times = choose_times(str(path), 20.0, 1.0, 6, "adaptive")
    assert len(times) == 6
    assert (np.diff(times) > 0).all()


def test_a_survey_is_bounded_whatever_the_duration(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", pictures()[:200], gop=50)
    monkeypatch.setattr(survey, "MOST", 16)
    with open_media(path) as container:
        times, cells = survey.scan(container, main_stream(container), 20.0)
    assert cells.shape == (16, 48, 86)
    assert times[0] == 0
    assert np.diff(times).min() >= 1.25 - 1e-3
