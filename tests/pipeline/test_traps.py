"""Every kind of file that decoders get wrong, through ingest and frames: each cached frame is the one shown then."""

import json
from pathlib import Path

import pytest

from benchmarks.trap_files import Trap, make_traps, number_in
from clipbert.config.data import IngestParams
from clipbert.config.schema import FramesParams
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_videos
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.build import build_cache

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trap]]:
    root = tmp_path_factory.mktemp("traps")
    traps = list(make_traps(root / "data" / "videos"))
    rows = [
        {"id": trap.path.name, "media": f"videos/{trap.path.name}", "text": trap.what, "split": "train"}
        for trap in traps
    ]
    (root / "data" / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = ingest(root / "data", root / "manifest", IngestParams())
    assert summary.quarantined == {}
    build_cache(root / "data", root / "manifest", root / "frames", FramesParams(fps=4.0, size=48))
    return root, traps


def test_every_cached_frame_shows_the_number_of_its_time(project: tuple[Path, list[Trap]]) -> None:
    root, traps = project
    cache = FrameCache(root / "frames")
    wrong, frames = {}, 0
    for trap in traps:
        video = cache[f"videos/{trap.path.name}"]
        found = [number_in(image) for image in video.images]
        expected = [trap.number_at(when) for when in video.times]
        frames += len(found)
        if found != expected:
            wrong[trap.path.name] = (found, expected)
    assert wrong == {}
    assert len(traps) == 50
    assert frames > 800


def test_the_manifest_says_which_way_each_took_and_why(project: tuple[Path, list[Trap]]) -> None:
    videos = read_videos(project[0] / "manifest").set_index("media")
    expected = {
        "plain.mp4": ("decord", "24 frames compared with a sequential decode: equal"),
        "vp9.webm": ("decord", "for decord hides damage in vp9"),
        "offset.mkv": ("decord", "for it starts at 5.00 s"),
        "h264.avi": ("pyav", "decord is not exact in avi"),
        "h264.ts": ("pyav", "decord is not exact in mpegts"),
        "av1.mp4": ("pyav", "av1"),
        "animated.gif": ("pyav", "gif"),
        "open_gop.mp4": ("pyav", "open groups of pictures"),
        "cut.mp4": ("pyav", "an edit list hides 5 frames"),
        "two_streams.mp4": ("pyav", "2 video streams"),
        "cover.mp4": ("pyav", "2 video streams or covers"),
        "wide_pixels.mkv": ("pyav", "not square"),
        "turned_90_mirrored.mp4": ("pyav", "mirrored"),
        "live.webm": ("pyav", "decord cannot decode it"),
        "exif.jpg": ("pil", "an image"),
    }
    found = {name: tuple(videos.loc[f"videos/{name}", ["path_taken", "path_reason"]]) for name in expected}
    for name, (path_taken, word) in expected.items():
        assert found[name][0] == path_taken, (name, found[name])
        assert word in found[name][1], (name, found[name])


@pytest.mark.parametrize(
    ("name", "width", "height", "duration_s"),
    [
        ("turned_90.mp4", 96, 64, 4.8),
        ("wide_pixels.mkv", 192, 64, 4.8),
        ("narrow_pixels.mp4", 48, 64, 4.8),
        ("offset.mkv", 96, 64, 4.8),
        ("cut.mp4", 96, 64, 4.3),
        ("live.webm", 96, 64, 4.8),
        ("single.mp4", 96, 64, 0.1),
        ("exif.jpg", 96, 64, 1.0),
    ],
)
def test_sizes_are_upright_and_square_and_times_those_shown(
    project: tuple[Path, list[Trap]], name: str, width: int, height: int, duration_s: float
) -> None:
    row = read_videos(project[0] / "manifest").set_index("media").loc[f"videos/{name}"]
    assert (row["width"], row["height"]) == (width, height)
    assert row["duration_s"] == pytest.approx(duration_s, abs=0.01)
