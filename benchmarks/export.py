"""An ONNX export compared with torch: latency of each part in fp32 and int8, and what int8 does to the answers.

    python -m benchmarks.export --project . [--threads 1] [--repeats 30]

Exports `artifacts/models/retrieval` and `artifacts/models/open_qa` of a project, quantizes the weights of the exports
to int8 (onnxruntime's dynamic quantization), and times the three in turn in one run. R@1 and accuracy are those of the
validation split.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

from clipbert import pipeline
from clipbert.export.example import Model
from clipbert.export.parts import export_parts
from clipbert.export.write import export_model

TASKS = ("retrieval", "open_qa")
SIZES = {"one request": (1, 2, 16), "a batch of 16": (16, 2, 16)}  # videos or texts, clips, tokens
QUESTIONS, VIDEOS = 300, 100  # of the validation split


def quantize(folder: Path, threads: int) -> Model:
    """Return the model of a copy of an export whose matrix products have int8 weights."""
    for path in folder.glob("*.onnx"):
        prepared = path.with_suffix(".prepared")
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, path, weight_type=QuantType.QInt8)
        prepared.unlink()
    return Model(folder, threads)


def time_in_turn(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of each call of the functions, called in turn after two calls that do not count."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(repeats + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= 2:
                found[name].append(1000 * (time.perf_counter() - start))
    return found


def latencies(task: str, model: Any, variants: dict[str, Model], repeats: int, table: Table) -> None:
    """Add a row for each part and size."""
    for part in export_parts(model.model, model.processor):
        for label, sizes in SIZES.items():
            inputs = part.make_inputs(*sizes)
            feed = {name: value.numpy() for name, value in zip(part.inputs, inputs, strict=True)}

            def in_torch(part: Any = part, inputs: Any = inputs) -> None:
                with torch.inference_mode():
                    part.module(*inputs)

            functions: dict[str, Callable[[], Any]] = {"torch": in_torch}
            for name, variant in variants.items():
                functions[name] = lambda variant=variant, part=part, feed=feed: variant.run(part.name, **feed)
            times = time_in_turn(functions, repeats)
            median = {name: statistics.median(each) for name, each in times.items()}
            ratios = {
                name: np.quantile(np.array(times["torch"]) / np.array(times[name]), (0.1, 0.5, 0.9))
                for name in variants
            }
            cells = [f"{r[1]:.2f} ({r[0]:.2f} to {r[2]:.2f})" for r in ratios.values()]
            table.add_row(task, part.name, label, *(f"{value:.2f}" for value in median.values()), *cells)


def recall_at_1(model: Model, root: Path) -> float:
    """Return the percentage of validation captions whose video is ranked first among `VIDEOS` videos."""
    chosen = validation(root, "caption").drop_duplicates("media").head(VIDEOS)
    ids, mask = model.tokens(list(chosen["text"]))
    vectors = model.run("text_encoder", input_ids=ids, attention_mask=mask)["text_features"]
    scores = np.zeros((len(chosen), len(chosen)))
    comparison = model.settings["similarity"]
    for column, media in enumerate(chosen["media"]):
        seen = model.run("vision_encoder", pixel_values=model.pixels(str(root / "data" / media)))
        similarity = comparison["scale"] * (vectors @ seen["video_features"][0]) + comparison["bias"]
        scores[:, column] = similarity + model.logits(seen, ids, mask)
    return 100 * float((scores.argmax(axis=1) == np.arange(len(chosen))).mean())


def accuracy(model: Model, root: Path) -> float:
    """Return the percentage of validation questions that are answered right."""
    asked = validation(root, "open_qa").head(QUESTIONS)
    right = 0
    for media, own in asked.groupby("media"):
        seen = model.run("vision_encoder", pixel_values=model.pixels(str(root / "data" / str(media))))
        logits = model.logits(seen, *model.tokens(list(own["text"])))
        answers = [model.settings["answers"][i] for i in logits.argmax(axis=1)]
        right += sum(found == expected for found, expected in zip(answers, own["answer"], strict=True))
    return 100 * right / len(asked)


def validation(root: Path, kind: str) -> pd.DataFrame:
    """Return the validation texts of a kind about videos."""
    texts = pd.read_parquet(root / "artifacts" / "manifest" / "texts.parquet")
    return texts[(texts["split"] == "val") & (texts["kind"] == kind) & (texts["media_kind"] == "video")]


def main() -> None:
    """Print the latencies and the quality."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    onnxruntime.set_default_logger_severity(3)
    table = Table("task", "part", "rows", "torch ms", "onnx ms", "int8 ms", "torch / onnx", "torch / int8")
    quality = Table("task", "figure", "fp32", "int8", "MB fp32", "MB int8")
    with tempfile.TemporaryDirectory() as scratch:
        for task in TASKS:
            folder = options.project / "artifacts" / "models" / task
            plain, small = Path(scratch, task), Path(scratch, f"{task}-int8")
            for out in (plain, small):
                export_model(folder, out)
            variants = {"onnx": Model(plain, options.threads), "int8": quantize(small, options.threads)}
            latencies(task, pipeline(task, folder, device="cpu"), variants, options.repeats, table)
            measure = recall_at_1 if task == "retrieval" else accuracy
            figures = [f"{measure(variant, options.project):.1f}" for variant in variants.values()]
            sizes = [sum(path.stat().st_size for path in out.glob("*.onnx")) / 1e6 for out in (plain, small)]
            name = f"R@1 of {VIDEOS}" if task == "retrieval" else f"accuracy of {QUESTIONS}"
            quality.add_row(task, name, *figures, *(f"{size:.1f}" for size in sizes))
    console = Console(width=150)
    console.print(table)
    console.print(quality)


if __name__ == "__main__":
    main()
