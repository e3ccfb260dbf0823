"""How well does the recipe `small` search real videos, from how many of them, and how long does it take?

    python -m benchmarks.real_videos videodatainfo.json videos/ [--train 40 150 600] [--seeds 0 1 2] [--split test]

All steps are `clipbert` commands in a project of its own, from the import to the evaluation. Each number of training
videos and each seed is a training; a smaller number is a random subset of the training videos, another one for each
seed. `--split val` reads the best validation instead of evaluating the test split: use it for every choice, and the
test split once. `--set KEY=VALUE` changes a parameter of training and evaluation, for an ablation.
"""

import argparse
import csv
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.intervals import interval
from scripts.apply_recipe import apply_recipe

REPOSITORY = Path(__file__).parents[1]
MEASURES = ("r1", "r5", "r10", "median_rank")
COMMAND = (sys.executable, "-m", "clipbert")


@dataclass
class Row:
    """One training: percentages, and seconds of wall and processor time of all its commands."""

    train: int
    seed: int
    split: str
    r1: float
    r5: float
    r10: float
    median_rank: float
    queries: int
    gallery: int
    wall_s: float
    cpu_s: float


def cpu_seconds() -> float:
    """Return the processor time of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Work:
    """A project in `root` with the recipe `small`."""

    def __init__(self, root: Path, annotations: Path, videos: Path, settings: list[str]) -> None:
        self.root, self.settings = root, [word for value in settings for word in ("--set", value)]
        root.mkdir(parents=True, exist_ok=True)
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(REPOSITORY / name, root)
        shutil.copytree(REPOSITORY / "recipes", root / "recipes", dirs_exist_ok=True)
        apply_recipe(root, "small")
        captions = root / "all_captions.jsonl"  # `keep` reduces data/captions.jsonl
        if not captions.is_file():
            self.run("import", "msrvtt", str(annotations), str(videos), "--captions-per-test-video", "1")
            shutil.copy(root / "data" / "captions.jsonl", captions)
        self.captions = captions.read_text().splitlines()

    def run(self, *command: str) -> None:
        """Run a `clipbert` command; its output goes to `log.txt`.

        Raises:
            SystemExit: it failed.
        """
        with (self.root / "log.txt").open("a") as log:
            log.write(f"$ clipbert {' '.join(command)}\n")
            log.flush()
            environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
            code = subprocess.call((*COMMAND, *command), cwd=self.root, env=environment, stdout=log, stderr=log)
        if code:
            raise SystemExit(f"clipbert {' '.join(command)} ended with {code}; see {self.root / 'log.txt'}")

    def keep(self, count: int | None, seed: int) -> int:
        """Keep the captions of `count` random training videos, or of all (None); return how many there are."""
        rows = [json.loads(line) for line in self.captions]
        media = sorted({row["media"] for row in rows if row["split"] == "train"})
        chosen = set(media if count is None else random.Random(seed).sample(media, count))
        kept = [row for row in rows if row["split"] != "train" or row["media"] in chosen]
        (self.root / "data" / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
        return len(chosen)

    def measure(self, count: int | None, seed: int, split: str) -> Row:
        """Train on `count` videos, from the import on, and return the row of the split."""
        started, before = time.monotonic(), cpu_seconds()
        videos = self.keep(count, seed)
        for verb in ("ingest", "validate", "frames"):
            self.run(verb)
        self.run("pretrained", "get")
        self.run("train", "retrieval", "--set", f"seed={seed}", *self.settings)
        if split == "test":
            self.run("evaluate", "retrieval", *self.settings)
            found = json.loads((self.root / "artifacts" / "metrics" / "retrieval.json").read_text())
        else:
            with (self.root / "artifacts" / "history" / "retrieval" / "val.csv").open() as file:
                found = max(csv.DictReader(file), key=lambda row: float(row["retrieval/mrr"]))
        values = {name: float(found[f"retrieval/{name}"]) for name in (*MEASURES, "queries", "gallery")}
        counts = {name: int(values.pop(name)) for name in ("queries", "gallery")}
        wall, cpu = time.monotonic() - started, cpu_seconds() - before
        return Row(videos, seed, split, **values, **counts, wall_s=round(wall, 1), cpu_s=round(cpu, 1))


def print_table(rows: list[Row]) -> None:
    """Print the mean over the seeds of each number of training videos."""
    table = Table("videos", "seeds", "R@1 (95 %)", "R@5", "R@10", "median rank", "wall s", "CPU s")
    for count in sorted({row.train for row in rows}):
        own = [row for row in rows if row.train == count]
        mean = {name: sum(getattr(row, name) for row in own) / len(own) for name in (*MEASURES, "wall_s", "cpu_s")}
        low, high = (100 * end for end in interval(mean["r1"] / 100, own[0].queries))
        cells = [f"{mean['r1']:.1f} ({low:.1f} to {high:.1f})", *(f"{mean[name]:.1f}" for name in MEASURES[1:])]
        seeds = " ".join(str(row.seed) for row in own)
        table.add_row(str(count), seeds, *cells, f"{mean['wall_s']:.0f}", f"{mean['cpu_s']:.0f}")
    gallery = rows[0].gallery
    table.add_row("chance", "", *(f"{100 * k / gallery:.1f}" for k in (1, 5, 10)), f"{(gallery + 1) / 2:.1f}", "", "")
    Console().print(table)


def main() -> None:
    """Run the trainings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="videodatainfo.json of MSR-VTT, or a subset in its layout")
    parser.add_argument("videos", type=Path, help="the folder of its videos")
    parser.add_argument("--train", type=int, nargs="*", default=[], help="numbers of training videos; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, help="the project's folder, which stays; default: a temporary one")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Work(options.work or Path(temporary), options.annotations, options.videos, options.settings)
        rows: list[Row] = []
        for count in options.train or [None]:
            for seed in options.seeds:
                rows.append(work.measure(count, seed, options.split))
                values: dict[str, Any] = asdict(rows[-1])
                print(json.dumps(values), flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
