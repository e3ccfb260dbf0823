"""Is every cached frame the one that is shown at its time? And what does each way of decoding cost?

    python benchmarks/decode.py [--data FOLDER ...] [--json FILE]

Made files of every kind that decoders get wrong carry their own truth: each picture says its number. For the real files
below FOLDER, the truth is a sequential decode from the first frame to the last. All go through the real stages, ingest
and frames, and are read back from the cache. Then the same files are decoded by each path in turn, for its speed, and
ingested under each setting of `ingest.verify`, for its cost.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.reference import differing
from benchmarks.trap_files import Shown as Truth
from benchmarks.trap_files import make_traps, number_in
from clipbert.config.data import IngestParams
from clipbert.config.schema import FramesParams
from clipbert.data.ingest.probe import Rejected
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_videos
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.build import build_cache
from clipbert.process_pool import KillablePool
from clipbert.sampling.candidates import decode_file

FRAMES = FramesParams(fps=4.0, size=112)
INGEST = IngestParams(max_quarantined_fraction=1.0)
ROUNDS = 3


@dataclass
class Row:
    """One file: which way it took, and how many of its cached frames are wrong."""

    file: str
    what: str
    path: str
    frames: int
    wrong: int
    note: str = ""


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Encoders and decoders talk on stderr, stages on stdout."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def cached(root: Path) -> tuple[FrameCache, Any, dict[str, Rejected]]:
    """Run ingest and frames over `root`/data: the cache, the videos table, and what was quarantined."""
    media = sorted(path.name for path in (root / "data" / "videos").iterdir())
    rows = [{"id": str(i), "media": f"videos/{name}", "text": "x", "split": "train"} for i, name in enumerate(media)]
    (root / "data" / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = ingest(root / "data", root / "manifest", INGEST)
    build_cache(root / "data", root / "manifest", root / "frames", FRAMES)
    return FrameCache(root / "frames"), read_videos(root / "manifest").set_index("media"), summary.quarantined


def check_traps(root: Path) -> list[Row]:
    """The made files against the numbers in their pictures."""
    with silent():
        traps = list(make_traps(root / "data" / "videos"))
        cache, videos, quarantined = cached(root)
    rows = []
    for trap in traps:
        media = f"videos/{trap.path.name}"
        if media in quarantined:
            why = quarantined[media]
            rows.append(Row(trap.path.name, trap.what, "quarantine", 0, 0, f"{why.reason}: {why.detail}"))
            continue
        video = cache[media]
        wrong = count_wrong(video.times, video.images, trap.number_at)
        row = videos.loc[media]
        rows.append(Row(trap.path.name, trap.what, row["path_taken"], len(video.times), wrong, row["path_reason"]))
    return rows


def count_wrong(times: np.ndarray, images: np.ndarray, number_at: Truth) -> int:
    """How many pictures do not show the number that is on screen at their time."""
    return sum(number_in(image) != number_at(when) for when, image in zip(times, images, strict=True))


def check_real(root: Path, folder: Path) -> list[Row]:
    """Files of a folder against a sequential decode of each."""
    (root / "data" / "videos").mkdir(parents=True)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".md", ".txt", ".json", ".jsonl"):
            shutil.copyfile(path, root / "data" / "videos" / path.name)
    with silent():
        cache, videos, quarantined = cached(root)
    rows = [
        Row(media.removeprefix("videos/"), "", "quarantine", 0, 0, f"{why.reason}: {why.detail}")
        for media, why in quarantined.items()
    ]
    with KillablePool(len(os.sched_getaffinity(0)), 300) as pool:
        for media in cache.media:
            video, row = cache[media], videos.loc[media]
            note = f"damaged: {row['damage']}" if isinstance(row["damage"], str) else row["path_reason"]
            wrong = 0
            if row["kind"] == "video":
                path = str(root / "data" / media)
                wrong = pool.submit(differing, path, video.times, video.images, FRAMES.size, FRAMES.quality).result()
            rows.append(Row(media.removeprefix("videos/"), "", row["path_taken"], len(video.times), wrong, note))
    return sorted(rows, key=lambda row: row.file)


def time_paths(root: Path) -> dict[str, Any]:
    """Candidate frames a second by random access and by sequential decode, on the files that decord serves."""
    videos = read_videos(root / "manifest")
    files = [str(root / "data" / media) for media in videos.loc[videos["path_taken"] == "decord", "media"]]
    if not files:
        return {}
    rates: dict[str, list[float]] = {"decord": [], "pyav": []}
    for _ in range(ROUNDS):
        for path_taken, found in rates.items():
            started, frames = time.perf_counter(), 0
            for file in files:
                frames += len(decode_file(file, path_taken, FRAMES.fps, FRAMES.size, FRAMES.max_frames).times)
            found.append(frames / (time.perf_counter() - started))
    ratios = [a / b for a, b in zip(rates["decord"], rates["pyav"], strict=True)]
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {"files": len(files), **medians, "ratio": statistics.median(ratios), "ratios": ratios}


def time_verify(root: Path) -> dict[str, Any]:
    """Seconds of ingest under each setting of `ingest.verify`, nothing remembered."""
    seconds: dict[str, list[float]] = {"never": [], "suspicious": [], "always": []}
    for number in range(ROUNDS):
        for verify, found in seconds.items():
            started = time.perf_counter()
            with silent():
                memory = root / f"{verify}{number}.sqlite"
                ingest(root / "data", root / "again", INGEST.model_copy(update={"verify": verify}), memory)
            found.append(time.perf_counter() - started)
    return {name: {"median": statistics.median(found), "runs": found} for name, found in seconds.items()}


def show(title: str, rows: list[Row], console: Console) -> None:
    """Print one table."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("file", "what", "path", "frames", "wrong", "why, or what was noticed"):
        table.add_column(column, justify="right" if column in ("frames", "wrong") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(value).replace("[", r"\[") for value in asdict(row).values()))
    paths = {path: sum(row.path == path for row in rows) for path in sorted({row.path for row in rows})}
    table.caption = (
        f"{len(rows)} files: {', '.join(f'{number} {path}' for path, number in paths.items())}; "
        f"wrong: {sum(row.wrong for row in rows)} of {sum(row.frames for row in rows)} frames"
    )
    console.print(table)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, action="append", default=[], help="a folder of real media; may be repeated"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    console = Console(width=150)
    checks: list[tuple[str, Callable[[Path], list[Row]]]] = [("made files", check_traps)]
    checks += [(folder.name, lambda root, folder=folder: check_real(root, folder)) for folder in arguments.data]
    figures: dict[str, Any] = {}
    for title, check in checks:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            rows = check(root)
            show(title, rows, console)
            speed, cost = time_paths(root), time_verify(root)
        figures[title] = {
            "rows": [asdict(row) for row in rows],
            "frames": sum(row.frames for row in rows),
            "wrong": sum(row.wrong for row in rows),
            "speed": speed,
            "verify": cost,
        }
        if speed:
            console.print(
                f"{speed['files']} files served by decord: {speed['decord']:.0f} candidate frames/s by random access, "
                f"{speed['pyav']:.0f} by sequential decode; ratio {speed['ratio']:.2f} "
                f"({min(speed['ratios']):.2f} to {max(speed['ratios']):.2f})"
            )
        console.print("ingest: " + ", ".join(f"verify {name} {found['median']:.2f} s" for name, found in cost.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
