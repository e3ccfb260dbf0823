"""The parts of the GPU kit: what each runs, how long it may take, and which of its figures the table shows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WANTED_RATIO, WANTED_MFU = 2.0, 0.40  # a step over the paper's loop, and its share of the peak rate
WANTED_WAIT, WANTED_FEED = 0.10, 2.0  # share of a step, and the loader over what the step consumes


@dataclass(frozen=True)
class Measure:
    """One figure of a part.

    Attributes:
        target: what was asked for; None: nothing was.
        at_least: whether the target is a lower bound; if not, an upper one.
    """

    what: str
    value: float
    unit: str = ""
    target: float | None = None
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Part:
    """A program of the kit.

    Attributes:
        limit_s: seconds after which its process group is killed.
        command: module and arguments; `{work}` is the kit's folder, `{project}` the data, `{json}` the result's file.
        dry: the same for a check without a GPU.
        measures: the figures of its result.
    """

    name: str
    title: str
    limit_s: float
    command: tuple[str, ...]
    dry: tuple[str, ...]
    measures: Callable[[dict[str, Any]], list[Measure]]


def of_tests(result: dict[str, Any]) -> list[Measure]:
    counts = [Measure(name, result[name]) for name in ("passed", "skipped")]
    return [Measure("failed", result["failed"], target=0, at_least=False), *counts]


def of_train_step(result: dict[str, Any]) -> list[Measure]:
    on_gpu = result["type"] == "cuda"
    found = [Measure("videos a step", result["shape"]["videos"])]
    for name, row in result["ways"].items():
        ours = name != "plain" and on_gpu
        found.append(Measure(f"{name}: step", row["seconds"]["median"], "s"))
        if name != next(iter(result["ways"])):
            target = WANTED_RATIO if ours and row["wanted"] else None
            found.append(Measure(f"{name}: speed over the first", row["ratio"]["median"], "x", target))
        target = WANTED_MFU if ours and name in ("bf16", "fp16") else None
        if not math.isnan(row["mfu"]["median"]):  # the peak rate of this device is known
            found.append(Measure(f"{name}: MFU", row["mfu"]["median"], "", target))
        found.append(Measure(f"{name}: first step", row["first_step_s"], "s"))
        found.append(Measure(f"{name}: memory", row["memory_gb"], "GB"))
    return found


def of_loader(result: dict[str, Any]) -> list[Measure]:
    found = []
    for row in result["rows"]:
        name = f"{row['num_workers']} workers"
        most = row is result["rows"][-1]
        found.append(Measure(f"{name}: loader alone", row["fed_clips_per_s"], "clips/s"))
        found.append(Measure(f"{name}: over the step", row["fed_over_consumed"], "x", WANTED_FEED if most else None))
        wait = WANTED_WAIT if most else None
        found.append(Measure(f"{name}: share of waiting", row["data_wait_of_all"], "", wait, at_least=False))
    return found


def of_sparse_vs_dense(result: dict[str, Any]) -> list[Measure]:
    found = []
    for row in result["rows"]:
        cell = row["both"]
        if "out_of_memory" in cell:
            found.append(Measure(f"{row['what']}: out of memory", 1))
            continue
        found.append(Measure(f"{row['what']}: step", cell["seconds"]["median"], "s"))
        found.append(Measure(f"{row['what']}: memory", cell["memory_gb"], "GB"))
    return found


def of_retrieval(result: dict[str, Any]) -> list[Measure]:
    found = [Measure("gallery", result["gallery"])]
    for name, row in result["rows"].items():
        found.append(Measure(f"{name}: vision half", row["clips_per_s"], "clips/s"))
        found.append(Measure(f"{name}: every pair", row["pairs_per_s"], "pairs/s"))
        found.append(Measure(f"{name}: rerank 10", row["rerank_texts_per_s"], "texts/s"))
    return found


def of_training(result: dict[str, Any]) -> list[Measure]:
    found = []
    for name, row in result["rows"].items():
        found.append(Measure(f"{name}: {row['steps']} steps", row["train_s"], "s"))
        shown = {"clips_per_s": "clips/s", "mfu": "", "data_wait": "", "first_loss": "", "last_loss": ""}
        found += [Measure(f"{name}: {key}", row[key], unit) for key, unit in shown.items() if key in row]
        if "frames" in row:
            found.append(Measure(f"{name}: preparation with features of {row['frames']} frames", row["prepare_s"], "s"))
        found += [Measure(f"{name}: val {key}", value) for key, value in row["val"].items()]
    return found


STEP = ("benchmarks.train_step", "--clips", "8", "--frames", "2", "--texts", "2", "--size", "448", "--json", "{json}")
SHORT = ("--threads", "--layers", "1", "--size", "64", "--clips", "1", "--rounds", "1", "--json", "{json}")
DRY_STEP = ("benchmarks.train_step", *SHORT)
WORK = ("--work", "{work}", "--json", "{json}")

PARTS = (
    Part("tests", "tests/gpu", 100, ("benchmarks.gpu.gpu_tests", "--json", "{json}"), (), of_tests),
    Part(
        "train_step",
        "a training step compared with the paper's loop",
        100,
        (*STEP, "--videos", "0", "--precision", "bf16", "fp16", "--warmup", "3"),
        (*DRY_STEP, "--precision", "bf16"),
        of_train_step,
    ),
    Part(
        "small",
        "training of the recipe small, and end to end",
        110,
        ("benchmarks.gpu.training", "small", *WORK),
        ("benchmarks.gpu.training", "small", "--tiny", *WORK),
        of_training,
    ),
    Part(
        "base",
        "training of the base preset, 224 pixels",
        75,
        ("benchmarks.gpu.training", "base", *WORK),
        ("benchmarks.gpu.training", "base", "--tiny", *WORK),
        of_training,
    ),
    Part(
        "loader",
        "data loading of the default job",
        60,
        ("benchmarks.loader", "{project}", "--num-workers", "0", "4", "14", "--json", "{json}"),
        ("benchmarks.loader", "{project}", "--num-workers", "0", "--steps", "2", "--json", "{json}"),
        of_loader,
    ),
    Part(
        "sparse_vs_dense",
        "sparse clips compared with dense frames",
        60,
        ("benchmarks.sparse_vs_dense", "--memory-gb", "0", "--one-process", "--json", "{json}"),
        (
            "benchmarks.sparse_vs_dense",
            *("--memory-gb", "0", "--one-process", "--size", "64", "--layers", "1", "--repeats", "1"),
            *("--dense", "8", "--rows", "1 x 2", "1 x 8", "--json", "{json}"),
        ),
        of_sparse_vs_dense,
    ),
    Part(
        "retrieval",
        "retrieval evaluation of the base preset",
        60,
        ("benchmarks.gpu.retrieval", *WORK),
        ("benchmarks.gpu.retrieval", "--tiny", *WORK),
        of_retrieval,
    ),
    Part(
        "compile",
        "a training step with torch.compile and with tuned cuDNN",
        150,
        (*STEP, "--videos", "4", "--precision", "bf16", "--without-plain", "--compile", "--tune", "--warmup", "4"),
        (*DRY_STEP, "--precision", "fp32", "--without-plain", "--tune"),
        of_train_step,
    ),
)
