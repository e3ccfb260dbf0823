"""The paper's claim as a table: cost of sparse clips compared with dense frames, and memory saved at the cost of time.

    python -m benchmarks.sparse_vs_dense                   # base preset, 448 pixels; cells of 16 GB at most
    python -m benchmarks.sparse_vs_dense --memory-gb 0     # all the memory there is

A row is one video with its text, clips x frames: 1x2, 4x2, 8x2 and 16x2 as sparse training has them, and 64 frames in
one clip (the mean over frames comes after the convolutions, so all of them are in memory at once); forward, and forward
and backward. Then a row in which activations are most of the memory, with activation checkpointing and in
micro-batches. Each cell has a process of its own, with freed memory kept as `clipbert train` has it; one that runs out
of memory says so. `--one-process` is for a GPU, whose peak can be reset between cells. Memory is what tensors took at
most above the model's own, gradients included: allocated on a GPU; on a CPU as the profiler saw it in the first step,
of which the time does not count. A process as a whole, with what oneDNN keeps and gaps, is `resident_gb`.
"""

import argparse
import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.model.activation_checkpointing import set_activation_checkpointing, set_microbatches
from clipbert.training.flops import FlopCounts
from clipbert.training.memory import is_out_of_memory, keep_freed_memory, release_memory
from clipbert.training.precision import Precision

SPARSE = [(1, 2), (4, 2), (8, 2), (16, 2)]
TEXT_LENGTH = 32
TRADED = (8, 2)
TRADES: dict[str, dict[str, Any]] = {
    "activation checkpointing": {"checkpointing": True},
    "2 micro-batches": {"parts": 2},
    "4 micro-batches": {"parts": 4},
    "8 micro-batches": {"parts": 8},
}


def cell(options: argparse.Namespace, work: dict[str, Any], answer: Any) -> None:
    """One cell, in its own process: seconds, gigabytes and TFLOP, or that memory ran out."""
    try:
        answer.send(measure(options, work))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        answer.send({"out_of_memory": True})


def measure(options: argparse.Namespace, work: dict[str, Any]) -> dict[str, Any]:
    """Steps of one shape."""
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limit = int(options.memory_gb * 1e9)
    if limit and device.type == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    elif limit:
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / torch.cuda.mem_get_info()[1]))
    clips, frames = work["shape"]
    torch.manual_seed(0)
    config = ClipBertConfig.base(clips=clips, frames_per_clip=frames, num_hidden_layers=options.layers)
    model = ClipBertForRetrieval(config).to(device).train()
    set_activation_checkpointing(model, work.get("checkpointing", False))
    set_microbatches(model, work.get("parts", 1))
    precision = Precision.choose(options.precision, device, model.config)
    shape = (options.videos, clips, frames, 3, options.size, options.size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    ids = torch.randint(1000, 30000, (options.videos, TEXT_LENGTH), device=device)
    labels = torch.ones(options.videos, dtype=torch.long, device=device)

    def step() -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(work["backward"]):
            with precision.autocast():
                loss = model(pixel_values=pixels, input_ids=ids, labels=labels).loss
            if work["backward"]:
                loss.backward()
                model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    counts = FlopCounts()
    with counts.step(SimpleNamespace()), peak(device) as taken:
        step()
    seconds = [step() for _ in range(options.repeats)]
    return {
        "seconds": spread(seconds),
        "memory_gb": round(taken[0] / 1e9, 2),
        "resident_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "tflop": round(counts.last / 1e12, 3),
        "precision": precision.name,
    }


@contextmanager
def peak(device: torch.device) -> Iterator[list[int]]:
    """The most bytes that tensors made within it took at once: the list has it when the block has ended."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.append(torch.cuda.max_memory_allocated() - before)
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    found.append(int(np.cumsum(changes).max()))


def spread(values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 4), "q1": round(float(low), 4), "q3": round(float(high), 4)}


def run(options: argparse.Namespace, work: dict[str, Any]) -> dict[str, Any]:
    """A cell's answer; a process that the system killed ran out of memory, too."""
    if options.one_process:
        answers: list[dict[str, Any]] = []
        cell(options, work, SimpleNamespace(send=answers.append))
        release_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return answers[0]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=cell, args=(options, work, theirs))
    process.start()
    theirs.close()
    try:
        result: dict[str, Any] = ours.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise SystemExit(f"{work}: the cell's process failed; it says why above") from None
        result = {"out_of_memory": True}
    process.join()
    return result


def table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, each printed when it is known."""
    rows: list[dict[str, Any]] = []
    works: list[tuple[str, dict[str, Any]]] = []
    works += [(f"{clips} x {frames}", {"shape": (clips, frames)}) for clips, frames in [*SPARSE, (1, options.dense)]]
    works += [(f"{TRADED[0]} x {TRADED[1]}, {name}", {"shape": TRADED, **trade}) for name, trade in TRADES.items()]
    print(
        f"{'clips x frames':<32}{'forward, s':>12}{'GB':>7}{'whole':>7}{'TFLOP':>8}{'with backward, s':>18}{'GB':>7}"
        f"{'whole':>7}{'TFLOP':>8}"
    )
    for name, work in works:
        if options.rows and name not in options.rows:
            continue
        # without backward there are neither parts nor recomputation
        wanted = ("forward", "both") if work.keys() == {"shape"} else ("both",)
        cells = {part: run(options, {**work, "backward": part == "both"}) for part in wanted}
        rows.append({"what": name, **cells})
        print(f"{name:<32}{show(cells.get('forward'), 12)}{show(cells['both'], 18)}", flush=True)
    return rows


def show(found: dict[str, Any] | None, width: int) -> str:
    if found is None:
        return " " * (width + 22)
    if "out_of_memory" in found:
        return f"{'out of memory':>{width + 22}}"
    gigabytes = f"{found['memory_gb']:>7.2f}{found['resident_gb']:>7.2f}"
    return f"{found['seconds']['median']:>{width}.2f}{gigabytes}{found['tflop']:>8.2f}"


def main() -> None:
    """Print the table; write it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1)
    parser.add_argument("--dense", type=int, default=64, help="frames of the one clip of the dense row")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--memory-gb", type=float, default=16, help="of a cell; 0: what there is")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12, help="of the encoder; fewer for a quick check")
    parser.add_argument("--one-process", action="store_true", help="on a GPU: all cells here, which is faster")
    parser.add_argument("--rows", nargs="*", help="their names; default: all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = table(options)
    if options.json:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        asked = {name: getattr(options, name) for name in ("videos", "dense", "size", "memory_gb", "repeats")}
        options.json.write_text(
            json.dumps({"device": device, **asked, "versions": versions, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
