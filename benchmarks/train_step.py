"""A training step of ours against the paper's loop written plainly.

    python -m benchmarks.train_step                       # base preset, 1 video x 4 clips x 2 frames, 448 pixels
    python -m benchmarks.train_step --precision fp32      # only what can be equal
    python -m benchmarks.train_step --kept                # the plain loop, too, keeps freed memory
    python -m benchmarks.train_step --videos 8            # on a GPU, where one video leaves it idle

The plain loop goes clip by clip through transformers' own modules with eager attention, channels first, in fp32 on a
CPU and under fp16 autocast on a GPU. Ours is `ClipBertForRetrieval` in each precision. Both start with the same
weights, which their losses show. One step is forward, loss, backward, clipping of the norm and fused AdamW, of the
paper's example: 1 video, 4 clips of 2 frames of 448 pixels, 2 texts. Each way has a process of its own; their steps
take turns. On a CPU ours has `keep_freed_memory`, as `clipbert train` has it; with `--kept` the plain loop has it, too,
which tells what the memory alone gives. Three of these processes need 20 GB: give `--precision` one at a time where
there is less. A ratio is the median of the rounds', its quartiles in brackets; that of processor seconds counts other
programs on the machine less.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoBackbone
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEmbeddings, BertEncoder, BertPooler

from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.model.configuration import backbone_config
from clipbert.model.fusion import VisualEmbeddings
from clipbert.model.heads import Classifier
from clipbert.training.memory import keep_freed_memory
from clipbert.training.peak_rates import peak_tflops

WANTED = {"cpu": {"fp32": 0.97, "bf16": 1.9}, "cuda": {"bf16": 2.0, "fp16": 2.0}}
PLAIN, KEPT = "plain", "plain, kept"
CLIP_NORM = 1.0
TEXT_LENGTH = 32


class PlainModel(nn.Module):
    """The paper's model of transformers' modules, one clip at a time; the names of its weights are ours."""

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        self.config = config
        self.clipbert = nn.ModuleDict(
            {
                "vision": nn.ModuleDict(
                    {
                        "backbone": AutoBackbone.from_config(backbone_config(config.vision or {})),
                        "projection": nn.Conv2d(2048, config.hidden_size, 3, padding=1, bias=False),
                    }
                ),
                "visual_embeddings": VisualEmbeddings(config),
                "embeddings": BertEmbeddings(config),
                "encoder": BertEncoder(config),
                "pooler": BertPooler(config),
            }
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = Classifier(config, labels=2)
        self.register_buffer("mean", torch.tensor(config.image_mean).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "PlainModel":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval().requires_grad_(False)
        return self

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(texts, clips, 2) of one video's pixels (1, K, T, 3, H, W)."""
        parts, logits = self.clipbert, []
        for clip in pixel_values[0]:
            features = parts["vision"]["backbone"](clip.float() - self.mean).feature_maps[-1]
            grid = torch.relu(nn.functional.max_pool2d(parts["vision"]["projection"](features), 2))
            visual = parts["visual_embeddings"](grid.permute(0, 2, 3, 1)[None]).expand(len(input_ids), -1, -1)
            joint = torch.cat([parts["embeddings"](input_ids=input_ids), visual], dim=1)
            seen = torch.cat([attention_mask, attention_mask.new_ones(visual.shape[:2])], dim=1)
            mask = create_bidirectional_mask(config=self.config, inputs_embeds=joint, attention_mask=seen)
            states = parts["encoder"](joint, attention_mask=mask).last_hidden_state
            logits.append(self.classifier(self.dropout(parts["pooler"](states))))
        return torch.stack(logits, dim=1)


def plain_loss(model: PlainModel, batch: dict[str, Tensor]) -> Tensor:
    """The multi-clip loss, a video after another."""
    total: Tensor = torch.zeros(())
    rows = torch.repeat_interleave(torch.arange(len(batch["pixel_values"])), batch["texts_per_video"].cpu())
    for video in range(len(batch["pixel_values"])):
        own = (rows == video).to(batch["input_ids"].device)
        clip_logits = model(
            batch["pixel_values"][video : video + 1], batch["input_ids"][own], batch["attention_mask"][own]
        ).float()
        loss = nn.functional.cross_entropy(torch.logsumexp(clip_logits, dim=1), batch["labels"][own], reduction="sum")
        total = total.to(loss.device) + loss
    return total / len(batch["input_ids"])


class Way:
    """One way of training, step by step."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], Tensor], device: torch.device, dtype: Any) -> None:
        self.model, self.loss, self.device, self.dtype = model, loss, device, dtype
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=True)
        self.scaler = torch.amp.GradScaler(device.type) if dtype is torch.float16 else None  # type: ignore[attr-defined]

    def step(self, batch: dict[str, Tensor]) -> tuple[float, float, float]:
        """(seconds, processor seconds, loss) of one step."""
        start, work = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext():
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


def make_batch(options: argparse.Namespace, device: torch.device) -> dict[str, Tensor]:
    """Noise for pixels, random words; half of the texts fill their length, the others half of it."""
    generator = torch.Generator().manual_seed(0)
    texts = options.videos * options.texts
    mask = torch.ones(texts, TEXT_LENGTH, dtype=torch.long)
    mask[1::2, TEXT_LENGTH // 2 :] = 0
    shape = (options.videos, options.clips, options.frames, 3, options.size, options.size)
    batch = {
        "pixel_values": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        "input_ids": torch.randint(1000, 30000, (texts, TEXT_LENGTH), generator=generator) * mask,
        "attention_mask": mask,
        "texts_per_video": torch.full((options.videos,), options.texts),
        "labels": (torch.arange(texts) % options.texts == 0).long(),
    }
    return {name: value.to(device) for name, value in batch.items()}


def make_way(name: str, options: argparse.Namespace, device: torch.device) -> Way:
    """The plain loop, or ours in a precision; all start with the same weights."""
    config = ClipBertConfig.base(clips=options.clips)
    torch.manual_seed(0)
    model = ClipBertForRetrieval(config)
    if name not in (PLAIN, KEPT):
        model = model.to(device).train()
        dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        return Way(model, lambda batch: model(**batch).loss, device, dtypes[name])
    plain = PlainModel(ClipBertConfig.base(clips=options.clips))
    plain.config._attn_implementation = "eager"
    plain.load_state_dict(model.state_dict(), strict=True)
    plain = plain.to(device).train()
    half = torch.float16 if device.type == "cuda" else None
    return Way(plain, lambda batch: plain_loss(plain, batch), device, half)


def serve(name: str, options: argparse.Namespace, asked: Any) -> None:
    """A process of one way: the loss at the start, then a step each time it is asked for one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != PLAIN:
        keep_freed_memory()
    way, batch = make_way(name, options, device), make_batch(options, device)
    way.model.eval()
    with torch.no_grad(), torch.autocast(device.type, way.dtype) if way.dtype else nullcontext():
        asked.send(float(way.loss(batch)))
    way.model.train()
    while asked.recv():
        asked.send(way.step(batch))
    memory = peak_memory(device)
    with FlopCounterMode(display=False) as counter:
        way.loss(batch).backward()
    asked.send((counter.get_total_flops(), memory))


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
    context = multiprocessing.get_context("spawn")
    names = [KEPT if options.kept else PLAIN, *options.precision]
    pipes, losses = {}, {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, options, theirs), daemon=True).start()
        losses[name] = pipes[name].recv()

    def step(name: str) -> tuple[float, float, float]:
        pipes[name].send(True)
        took: tuple[float, float, float] = pipes[name].recv()
        return took

    for _ in range(options.warmup):
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
        flops, memory = pipes[name].recv()
        took = np.array(taken[name])
        rate = flops / 1e12 / took[:, 0]
        ways[name] = {
            "seconds": spread(took[:, 0]),
            "ratio": spread(plain[:, 0] / took[:, 0]),
            "processor_seconds": spread(took[:, 1]),
            "processor_ratio": spread(plain[:, 1] / took[:, 1]),
            "loss_at_the_start": losses[name],
            "tflop": round(flops / 1e12, 4),
            "tflops": spread(rate),
            "mfu": spread(rate / (peak_tflops(device, _plain(device) if name in (PLAIN, KEPT) else name) or np.nan)),
            "memory_gb": round(memory, 2),
            "wanted": WANTED[device.type].get(name),
        }
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
    parser.add_argument("--videos", type=int, default=1)
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
        f"{'way':<13}{'seconds a step':<24}{'plain over it':<22}{'processor s':<13}"
        f"{'plain over it':<22}{'wanted':<8}{'TFLOP':<7}{'MFU':<7}{'GB':<6}loss at the start"
    )
    for name, row in result["ways"].items():
        print(
            f"{name:<13}{show(row['seconds'], '.2f'):<24}{show(row['ratio'], '.2f'):<22}"
            f"{row['processor_seconds']['median']:<13.2f}{show(row['processor_ratio'], '.2f'):<22}"
            f"{row['wanted'] or '':<8}{row['tflop']:<7.2f}{row['mfu']['median']:<7.2f}{row['memory_gb']:<6.1f}"
            f"{row['loss_at_the_start']:.5f}"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
