"""Rare events in half-hour videos: which share has a cached frame, by sampling, and what choosing
costs in processor seconds.

    python -m benchmarks.long_video [--quick] [--events N] [--seed N] [--json FILE]

An event counts when a frame decoded at one of the chosen moments shows its ball; the frames of the minute it is in are
decoded for that. Of the first video of each kind the whole path, `decode_file`, must say the same. Seeds
below 100 were looked at while the choice was made; the default was not. Then the largest gap between frames of
two-minute videos in which nothing happens, as a multiple of the uniform one, and the cost for a larger picture.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.table import Table

from benchmarks.event_videos import (
    ENCODINGS,
    HEIGHT,
    KINDS,
    MINUTE,
    RATE,
    WIDTH,
    Event,
    Scenery,
    encode_minute,
    is_shown,
    join,
)
from benchmarks.intervals import interval
from clipbert.console import console, progress
from clipbert.sampling.candidates import decode_file
from clipbert.sampling.clips import shown_at
from clipbert.sampling.scenes import choose_times

SAMPLINGS = ("uniform", "adaptive")
MINUTES, DISTINCT, FPS, SIZE = 30, 4, 2.0, 112
SHORT_MINUTES = 2
LARGE = 4
DURATION_S = float(MINUTES * 60)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, which other programs of the machine disturb little, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def shown_frames(path: Path, minute: int) -> np.ndarray:
    """(750,) bool: whether the ball is in each decoded frame of one minute."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(minute * 60 / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            index = round(float(frame.pts * stream.time_base) * float(RATE)) - minute * MINUTE
            if index >= MINUTE:
                break
            if index >= 0:
                found.append(is_shown(frame.to_ndarray(format="rgb24")))
    assert len(found) == MINUTE
    return np.array(found)


def decode_all(path: Path) -> int:
    """Decode every frame, converting none."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in container.decode(container.streams.video[0]))


def largest_gap(path: Path, duration_s: float, budget: int) -> float:
    """The longest stretch without a frame that adaptive sampling leaves, over that of uniform sampling."""
    longest = []
    for sampling in ("adaptive", "uniform"):
        times = choose_times(str(path), duration_s, FPS, budget, sampling)
        longest.append(float(np.diff([0.0, *times, duration_s]).max()))
    return longest[0] / longest[1]


def measure_large(path: Path, seed: int, minutes: int, budget: int) -> dict[str, float]:
    """What choosing costs for pictures of 1280 x 720: a pan, each minute created again."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = LARGE * WIDTH, LARGE * HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for minute in range(minutes):
            for index, picture in enumerate(Scenery("pan", seed + minute).minute()):
                small = av.VideoFrame.from_ndarray(picture, format="yuv420p")
                frame = small.reformat(stream.width, stream.height, interpolation="BICUBIC")
                frame.pts, frame.time_base = minute * MINUTE + index, 1 / RATE
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    duration_s = minutes * 60.0
    row = {"minutes": float(minutes)}
    row["choose_s"] = timed(lambda: choose_times(str(path), duration_s, FPS, budget, "adaptive"))[0]
    row["full_decode_s"] = timed(lambda: decode_all(path))[0]
    row["uniform_build_s"] = timed(lambda: decode_file(str(path), "decord", FPS, SIZE, budget))[0]
    return row


def measure(
    kind: str, encodings: list[str], events: int, budget: int, seed: int, folder: Path, advance: Any
) -> list[dict[str, Any]]:
    """Make the videos of one kind, one at a time, and find their events."""
    base = [encode_minute(Scenery(kind, seed + part), encodings) for part in range(DISTINCT)]
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    path = folder / "video.mp4"
    name = encodings[0]
    join(path, name, [base[part][name] for part in range(SHORT_MINUTES)])
    gap = largest_gap(path, SHORT_MINUTES * 60.0, budget)
    rows = {
        name: {"kind": kind, "encoding": name, "events": events, "budget": budget, "gap": gap} for name in encodings
    }
    found = {(name, sampling): 0 for name in encodings for sampling in SAMPLINGS}
    spent: dict[tuple[str, str], list[float]] = {key: [] for key in found}
    for number in range(events):
        order, place = generator.integers(0, DISTINCT, MINUTES), int(generator.integers(MINUTES))
        eventful = encode_minute(Scenery(kind, seed + int(order[place])), encodings, Event.drawn(generator))
        for name in encodings:
            join(path, name, [eventful[name] if i == place else base[j][name] for i, j in enumerate(order)])
            shown = shown_frames(path, place)
            starts = (np.arange(MINUTES * MINUTE)) / float(RATE)
            for sampling in SAMPLINGS:
                seconds, times = timed(lambda: choose_times(str(path), DURATION_S, FPS, budget, sampling))  # noqa: B023
                spent[name, sampling].append(seconds)
                index = shown_at(starts, times) - place * MINUTE
                hit = bool(shown[index[(index >= 0) & (index < MINUTE)]].any())
                found[name, sampling] += hit
            if number == 0:
                rows[name]["full_decode_s"], _ = timed(lambda: decode_all(path))
                build = timed(lambda: decode_file(str(path), "decord", FPS, SIZE, budget))
                rows[name]["uniform_build_s"] = build[0]
                if name == encodings[0]:
                    frames = decode_file(str(path), "decord", FPS, SIZE, budget, SAMPLINGS[-1])
                    assert frames.times.tolist() == times.tolist()
                    assert any(map(is_shown, frames.images)) == hit, kind
            advance(1, f"{kind}, {name}: {'found' if hit else 'missed'}")
    for (name, sampling), hits in found.items():
        low, high = interval(hits / events, events)
        rows[name][sampling] = {
            "found": hits,
            "low": low,
            "high": high,
            "choose_s": float(np.median(spent[name, sampling])),
        }
    return list(rows.values())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two events of each kind, two encodings")
    parser.add_argument("--events", type=int, default=10, help="videos of each kind and encoding")
    parser.add_argument("--budget", type=int, default=64, help="frames.max_frames")
    parser.add_argument("--seed", type=int, default=5000, help="of sceneries and events")
    parser.add_argument("--large-minutes", type=int, default=3, help="of the 1280 x 720 video; 0 for none")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    encodings = list(ENCODINGS)[:2] if arguments.quick else list(ENCODINGS)
    events = 2 if arguments.quick else arguments.events
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        progress("videos", len(arguments.kinds) * events * len(encodings)) as advance,
    ):
        for kind in arguments.kinds:
            rows += measure(kind, encodings, events, arguments.budget, arguments.seed, Path(folder), advance)
        large = None
        if arguments.large_minutes:
            path = Path(folder) / "large.mp4"
            large = measure_large(path, arguments.seed, arguments.large_minutes, arguments.budget)
    table = Table("kind", "encoding", *SAMPLINGS, "choosing, s", "of full decode", "of uniform build")
    for row in rows:
        seconds = row["adaptive"]["choose_s"]
        table.add_row(
            row["kind"],
            row["encoding"],
            *(f"{row[sampling]['found']}/{events}" for sampling in SAMPLINGS),
            f"{seconds:.2f}",
            f"{seconds / row['full_decode_s']:.2f}",
            f"{seconds / row['uniform_build_s']:.2f}",
        )
    total = events * len(rows)
    shares = []
    for sampling in SAMPLINGS:
        hits = sum(row[sampling]["found"] for row in rows)
        low, high = interval(hits / total, total)
        shares.append(f"{hits / total:.0%} [{low:.0%}, {high:.0%}]")
    table.add_row("all", "95 % interval", *shares)
    console.print(table)
    gaps = ", ".join(f"{kind} {gap:.1f}" for kind, gap in {row["kind"]: row["gap"] for row in rows}.items())
    console.print(f"largest gap over the uniform one, two minutes of: {gaps}")
    if large is not None:
        console.print(
            f"{LARGE * WIDTH} x {LARGE * HEIGHT}, {arguments.large_minutes} minutes: "
            f"choosing {large['choose_s']:.2f} s, "
            f"{large['choose_s'] / large['full_decode_s']:.2f} of a full decode, "
            f"{large['choose_s'] / large['uniform_build_s']:.2f} of a uniform build"
        )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"rows": rows, "large": large, "minutes": MINUTES, "fps": FPS, "seed": arguments.seed}, indent=2)
            + "\n"
        )


if __name__ == "__main__":
    main()
