"""Look-alikes across splits: time of the index as the set grows, compared with all pairs, and what it finds.

python benchmarks/near_duplicates.py --json near_duplicates.json
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from clipbert.data.perceptual_hash import COMPARED
from clipbert.data.validation.near_duplicates import near_duplicates

MAX_DISTANCE = 6
COPIES = 0.01
PLAIN_UP_TO = 10_000
RUNS = 3


def made(count: int) -> pd.DataFrame:
    """Videos of random looks, four fifths train, the rest val and test in halves; some of test are copies of train."""
    rng = np.random.default_rng(count)
    looks = rng.integers(-(2**63), 2**63 - 1, (count, 8))
    split = np.array(["train"] * 8 + ["val", "test"])[np.arange(count) % 10]
    test, train = np.flatnonzero(split == "test"), np.flatnonzero(split == "train")
    copies = rng.choice(test, round(count * COPIES), replace=False)
    sources = rng.choice(train, len(copies), replace=False)
    looks[copies] = looks[sources] ^ (np.int64(1) << rng.integers(0, 63, (len(copies), 8)))
    measures = {
        "brightness": rng.uniform(60, 180, count),
        "motion": rng.uniform(0, 30, count),
        "duration_s": rng.uniform(5, 30, count),
    }
    for values in measures.values():
        values[copies] = values[sources]
    media = [f"videos/{number}.mp4" for number in range(count)]
    return pd.DataFrame({"media": media, "split": split, "looks": list(looks), **measures})


def every_pair(videos: pd.DataFrame) -> int:
    """How many pairs of a val or test video and one of another split are near, each compared."""
    hashes = np.stack(videos["looks"].to_list()).view(np.uint64)
    split = videos["split"].to_numpy(str)
    near = 0
    for name, others in (("test", ("train", "val")), ("val", ("train",))):
        right = hashes[np.isin(split, others)]
        for visual_signature in hashes[split == name]:
            differing = np.bitwise_count(visual_signature ^ right)
            near += int(
                (np.partition(differing, COMPARED - 1, axis=1)[:, :COMPARED].mean(axis=1) <= MAX_DISTANCE).sum()
            )
    return near


def main() -> None:
    """Print one table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    arguments = parser.parse_args()
    rows = []
    print(f"{'videos':>8} {'copies':>7} {'found':>6} {'index, s':>9} {'spread':>13} {'every pair, s':>14} {'ratio':>6}")
    for count in arguments.sizes:
        videos = made(count)
        times, found = [], 0
        for _ in range(RUNS):
            start = time.perf_counter()
            found = len(near_duplicates(videos, MAX_DISTANCE))
            times.append(time.perf_counter() - start)
        plain_s = None
        if count <= PLAIN_UP_TO:
            start = time.perf_counter()
            if every_pair(videos) != found:
                raise SystemExit(f"{count}: the index and comparing every pair disagree")
            plain_s = time.perf_counter() - start
        median, spread = float(np.median(times)), (min(times), max(times))
        row = {"videos": count, "copies": round(count * COPIES), "found": found, "index_s": median, "spread_s": spread}
        rows.append({**row, "every_pair_s": plain_s, "ratio": plain_s and plain_s / median})
        plain = f"{plain_s:14.2f} {plain_s / median:6.1f}" if plain_s else f"{'-':>14} {'-':>6}"
        print(
            f"{count:8} {row['copies']:7} {found:6} {median:9.2f} {spread[0]:6.2f}-{spread[1]:5.2f} {plain}", flush=True
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
