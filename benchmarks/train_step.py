"""A training step of ours against the paper's loop written plainly.

    python -m benchmarks.train_step                       # base preset, 1 video x 4 clips x 2 frames, 448 pixels
    python -m benchmarks.train_step --precision fp32      # only what can be equal
    python -m benchmarks.train_step --kept                # the plain loop, too, keeps freed memory
    python -m benchmarks.train_step --videos 0 --clips 8  # on a GPU: as many videos as fit
    python -m benchmarks.train_step --without-plain --precision bf16 --compile --tune

The plain loop goes clip by clip through transformers' own modules with eager attention, channels first, in fp32 on a
CPU and under fp16 autocast on a GPU. Ours is `ClipBertForRetrieval` in each precision. Both start with the same
weights, which their losses show. One step is forward, loss, backward, clipping of the norm and fused AdamW, of the
paper's example: 1 video, 4 clips of 2 frames of 448 pixels, 2 texts. Each way has a process of its own; their steps
take turns. On a CPU ours has `keep_freed_memory`, as `clipbert train` has it; with `--kept` the plain loop has it, too,
which tells what the memory alone gives. Three of these processes need 20 GB: give `--precision` one at a time where
there is less. On a GPU they share it: with `--videos 0` the plain loop's memory of one and two videos decides how many
fit. `--compile` adds each precision under `train.compile`, `--tune` with cuDNN's choice of algorithms by trial. A ratio
is to the first way and the median of the rounds', its quartiles in brackets; that of processor seconds counts other
programs on the machine less.
"""

import argparse
import json
import multiprocessing
import multiprocessing.dummy
import platform
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from benchmarks.plain_loop import PlainModel, plain_loss
from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.training.compiled import compile_module
from clipbert.training.flops import FlopCounts
from clipbert.training.memory import keep_freed_memory
from clipbert.training.peak_rates import peak_tflops
from clipbert.training.precision import allow_tf32

WANTED = {"cpu": {"fp32": 0.97, "bf16": 1.9}, "cuda": {"bf16": 2.0, "fp16": 2.0}}
PLAIN, KEPT = "plain", "plain, kept"
COMPILED, TUNED = "compile", "tune"  # names of the options
FILLED, CONTEXT, MOST_VIDEOS = 0.85, 1e9, 32  # share of a GPU to use, bytes of a CUDA context
CLIP_NORM = 1.0
TEXT_LENGTH = 32


class Way:
    """One way of training, step by step."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], Tensor], device: torch.device, dtype: Any) -> None:
        self.model, self.loss, self.device, self.dtype = model, loss, device, dtype
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=True)
        self.scaler = torch.amp.GradScaler(device.type) if dtype is torch.float16 else None  # type: ignore[attr-defined]

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()

    def step(self, batch: dict[str, Any]) -> tuple[float, float, float]:
        """(seconds, processor seconds, loss) of one step."""
        start, work = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.loss(batch)
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
            self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, time.process_time() - work, loss.item()


def make_batch(options: argparse.Namespace, device: torch.device, videos: int) -> dict[str, Any]:
    """Noise for pixels, random words; half of the texts fill their length, the others half of it.

    The lengths of the texts are known on the host, as those of a training's batches are.
    """
    generator = torch.Generator().manual_seed(0)
    texts = videos * options.texts
    mask = torch.ones(texts, TEXT_LENGTH, dtype=torch.long)
    mask[1::2, TEXT_LENGTH // 2 :] = 0
    shape = (videos, options.clips, options.frames, 3, options.size, options.size)
    batch = {
        "pixel_values": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        "input_ids": torch.randint(1000, 30000, (texts, TEXT_LENGTH), generator=generator) * mask,
        "attention_mask": mask,
        "texts_per_video": torch.full((videos,), options.texts),
        "labels": (torch.arange(texts) % options.texts == 0).long(),
    }
    lengths = tuple(mask.sum(dim=1).tolist())
    return {name: value.to(device) for name, value in batch.items()} | {"text_lengths": lengths}


def make_config(options: argparse.Namespace) -> ClipBertConfig:
    """The base preset, with fewer layers where the options say so."""
    return ClipBertConfig.base(clips=options.clips, num_hidden_layers=options.layers)


def make_way(name: str, options: argparse.Namespace, device: torch.device) -> Way:
    """The plain loop, or ours in a precision; all start with the same weights."""
    torch.manual_seed(0)
    model = ClipBertForRetrieval(make_config(options))
    if name not in (PLAIN, KEPT):
        precision, _, changed = name.partition(" ")
        dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        model = model.to(device).train()
        torch.backends.cudnn.benchmark = changed == TUNED
        if device.type == "cuda":
            allow_tf32()
        ours = compile_module(model, changed == COMPILED)
        return Way(model, lambda batch: ours(**batch).loss, device, dtypes[precision])
    plain = PlainModel(make_config(options))
    plain.config._attn_implementation = "eager"
    plain.load_state_dict(model.state_dict(), strict=True)
    plain = plain.to(device).train()
    half = torch.float16 if device.type == "cuda" else None
    return Way(plain, lambda batch: plain_loss(plain, batch), device, half)


def serve(name: str, options: argparse.Namespace, asked: Any) -> None:
    """A process of one way: the loss at the start, then a step each time it is asked for one."""
    with asked:
        answer(name, options, asked)


def answer(name: str, options: argparse.Namespace, asked: Any) -> None:
    """What `serve` does until its pipe is closed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != PLAIN:
        keep_freed_memory()
    way, batch = make_way(name, options, device), make_batch(options, device, options.videos)
    way.model.eval()
    with torch.no_grad(), way.autocast():
        asked.send(
            float(plain_loss(way.model, batch) if isinstance(way.model, PlainModel) else way.model(**batch).loss)
        )
    way.model.train()
    while asked.recv():
        asked.send(way.step(batch))
    memory = peak_memory(device)
    asked.send((options.videos * count_flops(name, options, way.model, device), memory))


def count_flops(name: str, options: argparse.Namespace, model: Any, device: torch.device) -> int:
    """FLOP of forward and backward per video: they are proportional to the videos, and counting needs more memory."""
    counts, batch = FlopCounts(), make_batch(options, device, 1)
    precision = name.split()[0]
    model.zero_grad(set_to_none=True)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with counts.step(SimpleNamespace()), torch.autocast(device.type, dtype) if dtype else nullcontext():
        loss = plain_loss(model, batch) if isinstance(model, PlainModel) else model(**batch).loss
        loss.backward()
    return counts.last


def probe_memory(options: argparse.Namespace, answer: Any) -> None:
    """A process that sends the peak bytes of a step of the plain loop with one and with two videos."""
    device = torch.device("cuda")
    peaks = []
    way = make_way(PLAIN, options, device)
    for videos in (1, 1, 2):  # the first step makes the moments
        torch.cuda.reset_peak_memory_stats()
        way.step(make_batch(options, device, videos))
        peaks.append(torch.cuda.max_memory_allocated())
    answer.send(peaks[1:])


def fitting_videos(free: int, ways: int, one: int, two: int) -> int:
    """Return how many videos, a power of two, `ways` processes can have in a step side by side.

    Args:
        free: bytes of the GPU that are free before they start.
        one, two: peak bytes of one process with one and with two videos.
    """
    each = max(two - one, 1)
    room = (FILLED * free / ways - CONTEXT - (one - each)) / each
    return 1 << max(0, min(int(room), MOST_VIDEOS).bit_length() - 1)


def choose_videos(options: argparse.Namespace, ways: int) -> int:
    """Return the videos of a step: `--videos`, or as many as the GPU has room for; 1 on a CPU."""
    if options.videos or not torch.cuda.is_available():
        return options.videos or 1
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=probe_memory, args=(options, theirs), daemon=True)
    process.start()
    theirs.close()
    one, two = receive(ours, "the plain loop with 2 videos")
    process.join()  # until then the memory is not free
    return fitting_videos(torch.cuda.mem_get_info()[0], ways, one, two)


def receive(pipe: Any, name: str) -> Any:
    """Return the next answer of a way's process.

    Raises:
        SystemExit: the process has ended.
    """
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"{name}: its process ended; it says why above. Try fewer --videos.") from None


def peak_memory(device: torch.device) -> float:
    """Gigabytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def spread(values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 4), "q1": round(float(low), 4), "q3": round(float(high), 4)}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Steps in turns, each way in its own process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context: Any = multiprocessing.dummy if options.threads else multiprocessing.get_context("spawn")
    names = [] if options.without_plain else [KEPT if options.kept else PLAIN]
    for precision in options.precision:
        names += [precision, *(f"{precision} {way}" for way in (COMPILED, TUNED) if getattr(options, way))]
    options.videos = choose_videos(options, len(names))
    pipes, losses, processes = {}, {}, []
    for name in names:
        pipes[name], theirs = multiprocessing.Pipe()
        process = context.Process(target=serve, args=(name, options, theirs))
        process.daemon = True
        process.start()
        processes.append(process)
        if not options.threads:
            theirs.close()
        losses[name] = receive(pipes[name], name)

    def step(name: str) -> tuple[float, float, float]:
        pipes[name].send(True)
        took: tuple[float, float, float] = receive(pipes[name], name)
        return took

    first = {name: step(name)[0] for name in names}
    for _ in range(options.warmup - 1):
        for name in names:
            step(name)
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names[:: 1 if number % 2 else -1]:
            taken[name].append(step(name))
    ways = {}
    plain = np.array(taken[names[0]])
    for name in names:
        pipes[name].send(False)
        flops, memory = receive(pipes[name], name)
        took = np.array(taken[name])
        rate = flops / 1e12 / took[:, 0]
        precision = _plain(device) if name in (PLAIN, KEPT) else name.split()[0]
        ways[name] = {
            "seconds": spread(took[:, 0]),
            "ratio": spread(plain[:, 0] / took[:, 0]),
            "processor_seconds": spread(took[:, 1]),
            "processor_ratio": spread(plain[:, 1] / took[:, 1]),
            "loss_at_the_start": losses[name],
            "tflop": round(flops / 1e12, 4),
            "tflops": spread(rate),
            "mfu": spread(
                rate / (peak_tflops(device, _plain(device) if name in (PLAIN, KEPT) else name.split()[0]) or np.nan)
            ),
            "memory_gb": round(memory, 2),
            "first_step_s": round(first[name], 3),
            "wanted": None if options.without_plain else WANTED[device.type].get(name),
        }
    for process in processes:
        process.join()
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor_name(),
        "type": device.type,
        "rounds": options.rounds,
        "shape": {name: getattr(options, name) for name in ("videos", "clips", "frames", "size", "texts")},
        "ways": ways,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": torch.get_num_threads(),
        },
    }


def _plain(device: torch.device) -> str:
    return "fp16" if device.type == "cuda" else "fp32"


def processor_name() -> str:
    """The processor's name as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def show(value: dict[str, float], form: str = ".3f") -> str:
    return f"{value['median']:{form}} ({value['q1']:{form}} to {value['q3']:{form}})"


def main() -> None:
    """Print the table; write it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="*", choices=["fp32", "bf16", "fp16"], default=["fp32", "bf16"])
    parser.add_argument("--kept", action="store_true", help="freed memory is kept in the plain loop, too")
    parser.add_argument("--without-plain", action="store_true", help="ratios are to the first precision")
    parser.add_argument("--compile", action="store_true", help="each precision with train.compile, too")
    parser.add_argument("--tune", action="store_true", help="each precision with torch.backends.cudnn.benchmark, too")
    parser.add_argument("--videos", type=int, default=1, help="0: as many as a GPU has room for")
    parser.add_argument("--threads", action="store_true", help="threads of this process instead, for a quick check")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder; fewer for a quick check")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = compare(options)
    print(
        f"{'way':<14}{'seconds a step':<24}{'first over it':<22}{'processor s':<13}"
        f"{'first over it':<22}{'wanted':<8}{'TFLOP':<7}{'MFU':<7}{'GB':<6}loss at the start"
    )
    for name, row in result["ways"].items():
        print(
            f"{name:<14}{show(row['seconds'], '.2f'):<24}{show(row['ratio'], '.2f'):<22}"
            f"{row['processor_seconds']['median']:<13.2f}{show(row['processor_ratio'], '.2f'):<22}"
            f"{row['wanted'] or '':<8}{row['tflop']:<7.2f}{row['mfu']['median']:<7.2f}{row['memory_gb']:<6.1f}"
            f"{row['loss_at_the_start']:.5f}"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
