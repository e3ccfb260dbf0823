"""What do packed sequences save in a training step of the cross-encoder, and in its evaluation?

    python -m benchmarks.packed_step                # retrieval of the recipe `small`, with the cross-encoder on (24 GB)
    python -m benchmarks.packed_step --videos 48 --longest 31  # as padded as a batch of 128, in less memory
    python -m benchmarks.packed_step --task open_qa --videos 32

A step is loss, backward pass, clipping of the norm and fused AdamW of a task with the preset `small`, random weights,
and features of the frozen backbone. Texts have the lengths of MSR-VTT captions. Padded and packed steps take turns on
the same model and batch; before that, their losses without dropout are compared. `evaluation` scores a text with each
of `--gallery` videos by the cross-encoder, in the same turns. A ratio is the median of the rounds', its quartiles in
brackets, in wall time and in processor time, which counts other programs on the machine less.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipbert.config.load import load_params
from clipbert.model import ClipBertConfig
from clipbert.model.modeling import ClipBertModel
from clipbert.tasks import make_task
from clipbert.tasks.batch import Batch
from clipbert.tasks.scoring import match_scores
from clipbert.training.memory import keep_freed_memory

# How many of 12,000 MSR-VTT training captions have 5, 6, ... tokens in the vocabulary of BERT, with [CLS] and [SEP].
LENGTHS = (26, 587, 995, 1333, 1280, 1109, 1155, 1140, 936, 709, 595, 443, 360, 273, 210, 202, 130, 103, 86, 65, 50)
LENGTHS += (27, 30, 33, 21, 26, 22, 14, 8, 8, 6, 3, 4, 3, 3, 1, 0, 2, 1, 0, 0, 0, 1)
SHORTEST, ANSWERS, OPTIONS, MASKED = 5, 500, 5, 0.15
CHANNELS, CELLS = 1280, 7  # of EfficientNet-Lite0 at 224 pixels
TASKS = ("retrieval", "open_qa", "multiple_choice", "captioning", "pretrain")


def make_batch(options: argparse.Namespace, generator: torch.Generator) -> Batch:
    """Return random tokens and features; every text has a length of `LENGTHS`."""
    each = {"multiple_choice": OPTIONS, "open_qa": 4, "pretrain": 2}.get(options.task, 1)
    texts = options.videos * each
    drawn = torch.multinomial(torch.tensor(LENGTHS, dtype=torch.float), texts, replacement=True, generator=generator)
    lengths = drawn + SHORTEST
    if options.longest is not None:
        lengths = lengths.clamp(max=options.longest)
        lengths[0] = options.longest
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.randint(5, 30_000, mask.shape, generator=generator) * mask
    per_item = OPTIONS if options.task == "multiple_choice" else 1
    labels = torch.zeros(texts // per_item, dtype=torch.long)
    chosen = (torch.rand(mask.shape, generator=generator) < MASKED) & (mask == 1)
    features = torch.rand(options.videos, options.clips, 1, CHANNELS, CELLS, CELLS, generator=generator)
    return Batch(
        pixel_values=None,
        frame_features=features,
        input_ids=ids,
        attention_mask=mask,
        texts_per_video=torch.full((options.videos,), each),
        labels=labels,
        ids=[""] * len(labels),
        texts_per_item=torch.full((len(labels),), per_item),
        mlm_labels=torch.where(chosen, ids, -100) if options.task == "pretrain" else None,
        media_keys=torch.arange(options.videos),
        draws=torch.rand(options.videos, 8, generator=generator, dtype=torch.float64),
    ).with_lengths()


@contextmanager
def padded() -> Iterator[None]:
    """Pad the sequences of the cross-encoder in this context."""
    kept = ClipBertModel.pack_pairs
    ClipBertModel.pack_pairs = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ClipBertModel.pack_pairs = kept  # type: ignore[method-assign]


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Return (seconds, processor seconds) of one call."""
    start, before = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - before


def compare(work: Callable[[], object], rounds: int, device: torch.device) -> dict[str, Any]:
    """Return medians of the seconds of padded and packed calls that take turns, and the ratios with quartiles."""
    times: dict[str, list[tuple[float, float]]] = {"padded": [], "packed": []}
    for turn in range(rounds + 1):
        for way in ("padded", "packed") if turn % 2 else ("packed", "padded"):
            if way == "padded":
                with padded():
                    taken = timed(work, device)
            else:
                taken = timed(work, device)
            if turn:  # the first round is the warm-up
                times[way].append(taken)
    row: dict[str, Any] = {}
    for index, unit in enumerate(("wall", "cpu")):
        plain, packed = (np.array([taken[index] for taken in times[way]]) for way in ("padded", "packed"))
        row |= {f"padded_{unit}_s": float(np.median(plain)), f"packed_{unit}_s": float(np.median(packed))}
        row[f"{unit}_ratio"] = [float(value) for value in np.quantile(plain / packed, (0.25, 0.5, 0.75))]
    return row


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="retrieval")
    parser.add_argument("--videos", type=int, default=128)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--longest", type=int, help="tokens of the longest text, to which the others are padded")
    parser.add_argument("--gallery", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    params = load_params(Path(__file__).parents[1] / "params.yaml", ["tasks.retrieval.video_head=direct"])
    task = make_task(options.task, params.tasks)
    torch.manual_seed(0)
    dual = {"projection_size": 128, "video_head": "direct"} if options.task == "retrieval" else {}
    config = ClipBertConfig.small(
        clips=options.clips, frames_per_clip=1, answers=[str(number) for number in range(ANSWERS)], **dual
    )
    model = task.objective.model_class(config).to(device)
    model.clipbert.vision.freeze_backbone()
    batch = make_batch(options, torch.Generator().manual_seed(0)).to(device)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = task.objective.loss(model, batch)[0]
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        return loss

    def loss_without_dropout() -> float:
        with torch.no_grad():
            return float(task.objective.loss(model.eval(), batch)[0])

    with padded():
        plain = loss_without_dropout()
    result: dict[str, Any] = {
        "task": options.task,
        "videos": options.videos,
        "clips": options.clips,
        "threads": options.threads,
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "padding_of_pairs": padding(batch, config),
        "loss": {"padded": plain, "packed": loss_without_dropout()},
    }
    model.train()
    result["step"] = compare(step, options.rounds, device)
    if options.task == "retrieval":
        model.eval()
        with torch.inference_mode():
            visual = model.encode_features(batch.frame_features)[:1].expand(options.gallery, -1, -1, -1)
            rows = [values[:1].expand(options.gallery, -1) for values in (batch.input_ids, batch.attention_mask)]
            few = [values[:, : int(batch.attention_mask[0].sum())] for values in rows]
            alone = visual.new_zeros(options.gallery)
            result["evaluation"] = compare(
                lambda: match_scores(model, visual, *few, alone, options.gallery), options.rounds, device
            )
    print(f"{options.task}: {100 * result['padding_of_pairs']:.0f} % of the padded tokens of pairs are padding")
    print(f"loss without dropout: padded {plain:.6f}, packed {result['loss']['packed']:.6f}")
    for name in ("step", "evaluation"):
        if name in result:
            row = result[name]
            for unit in ("wall", "cpu"):
                low, middle, high = row[f"{unit}_ratio"]
                seconds = "  ".join(f"{way} {row[f'{way}_{unit}_s']:.3f} s" for way in ("padded", "packed"))
                print(f"{name:10} {unit:4} {seconds}  ratio {middle:.2f} [{low:.2f} to {high:.2f}]")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def padding(batch: Batch, config: ClipBertConfig) -> float:
    """Return the share of padding in the texts of the batch, each followed by a clip's visual tokens."""
    visual = (CELLS // 2) ** 2
    lengths = batch.attention_mask.sum(dim=1).double()
    return 1 - float((lengths.mean() + visual) / (batch.attention_mask.shape[1] + visual))


if __name__ == "__main__":
    main()
