"""Damaged files through ingest and frames: no crash, no hang; each cached frame exact, or its file flagged."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.mutations import MUTATIONS, mutate
from benchmarks.trap_files import encode, picture
from clipbert.config.data import IngestParams
from clipbert.config.schema import FramesParams
from clipbert.data.ingest.repeatability import UNREPEATABLE
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_videos
from clipbert.data.quarantine import REASONS, NotDecoded, read_quarantine
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.build import build_cache
from clipbert.process_pool import KillablePool
from clipbert.sampling.candidates import decode_file

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1200)]

# A run without `--mutations` takes a part of these files, spread over the formats and kinds of damage.
MOST = 300
# Gray levels; JPEG and the rounding of colors stay well below, another picture lies above 80.
SAME_WITHIN = 8.0
INGEST = IngestParams(timeout_s=10.0, max_worker_mb=1024, max_quarantined_fraction=1.0)
FRAMES = FramesParams(fps=4.0, size=48, timeout_s=10.0, max_worker_mb=1024)


def sources(folder: Path) -> list[Path]:
    """Files of real encoders and muxers."""
    folder.mkdir()
    image = folder / "l.png"
    Image.fromarray(picture(21)).save(image)
    return [
        encode(folder / "a.mp4", container_options={"movflags": "faststart"}),
        encode(folder / "b.mp4"),
        encode(folder / "c.mkv"),
        encode(folder / "d.webm", "libvpx-vp9", b_frames=0),
        encode(folder / "e.mp4", "libx265", options={"x265-params": "log-level=none:open-gop=0"}),
        encode(folder / "f.avi", "mpeg4"),
        encode(folder / "g.ts"),
        encode(folder / "h.gif", "gif", "rgb8"),
        encode(folder / "i.mp4", container_options={"movflags": "frag_keyframe+empty_moov"}),
        encode(folder / "j.flv"),
        encode(folder / "k.webm", "libvpx"),
        image,
    ]


def test_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--mutations")
    assert 60 <= count <= MOST, f"--mutations {count}: expected 60 to {MOST}"
    data = tmp_path / "data"
    made = list(mutate(sources(tmp_path / "sources"), data / "videos", MOST, seed=0))
    files = made[:: MOST // count]
    for file in {*made} - {*files}:
        file.unlink()
    assert len({file.name.split("_")[1] for file in files}) >= len(MUTATIONS) - 2
    lines = [{"id": file.name, "media": f"videos/{file.name}", "text": "x", "split": "train"} for file in files]
    (data / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = ingest(data, tmp_path / "manifest", INGEST)
    build_cache(data, tmp_path / "manifest", tmp_path / "frames", FRAMES, max_quarantined_fraction=1.0)

    videos = read_videos(tmp_path / "manifest").set_index("media")
    cache = FrameCache(tmp_path / "frames")
    late = read_quarantine(tmp_path / "frames" / "quarantine.jsonl", NotDecoded)
    reasons = Counter(why.reason for why in summary.quarantined.values()) + Counter(row.reason for row in late)
    assert set(reasons) <= REASONS.keys()
    assert len(cache) + reasons.total() == len(files)
    # the mutations are neither all harmless nor all deadly
    assert len(files) / 4 < len(cache) < len(files) * 3 / 4

    judged = [
        media
        for media in cache.media
        if not isinstance(videos.loc[media]["damage"], str) and videos.loc[media]["kind"] != "image"
    ]
    truths = decoded(monkeypatch, data, judged, "0")
    wrong = {media: why for media in judged if (why := apart(truths[media], cache[media])) is not None}
    assert wrong == {}
    # a file that looks another way in other memory, or after another file, is flagged: none is among those judged
    again = decoded(monkeypatch, data, judged[::-1], "170")
    assert {media for media in judged if apart(truths[media], again[media])} == set()
    flagged = videos[videos["damage"].str.contains(UNREPEATABLE, na=False)]
    codecs = set(flagged["codec"])
    assert codecs == {"vp8"} if count == MOST else codecs <= {"vp8"}


def decoded(monkeypatch: pytest.MonkeyPatch, data: Path, media: list[str], filling: str) -> dict[str, Any]:
    """A sequential decode of each file, in this order, by processes whose memory is filled so before it is used."""
    monkeypatch.setenv("MALLOC_PERTURB_", filling)
    with KillablePool(2, 20, 1024) as pool:
        jobs = {
            name: pool.submit(decode_file, str(data / name), "pyav", FRAMES.fps, FRAMES.size, FRAMES.max_frames)
            for name in media
        }
        found = {name: job.result() for name, job in jobs.items()}
    monkeypatch.delenv("MALLOC_PERTURB_")
    return found


def apart(truth: Any, other: Any) -> str | None:
    """In what two decodes of a file differ; None where they do not."""
    if truth.images.shape != other.images.shape or not np.allclose(truth.times, other.times, atol=2e-3):
        return "other times"
    off = np.abs(truth.images.astype(int) - other.images).mean((1, 2, 3)).max()
    return f"{off:.1f} gray levels" if off > SAME_WITHIN else None
