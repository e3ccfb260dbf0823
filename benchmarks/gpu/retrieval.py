"""How fast is a retrieval evaluation of the base preset: the vision half, every pair, and the best ten alone?

    python -m benchmarks.gpu.retrieval --json retrieval.json

The model has random weights: the time of a score does not depend on them. The gallery is the test split with one
caption of each video; fp32 is what `clipbert evaluate` uses, bf16 what a validation in a training uses.
"""

import argparse
import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.project import open_project
from benchmarks.gpu.training import base_values
from clipbert.config.schema import Params
from clipbert.data.manifest import read_texts
from clipbert.frame_cache import FrameCache
from clipbert.tasks import make_task
from clipbert.tasks.batch import Encoded
from clipbert.tasks.predict import encode_videos
from clipbert.tasks.scoring import ProcessorTokens, cached_frames_params
from clipbert.training.setup import build_model

RERANKED = 10


def timed(device: torch.device, work: Any) -> tuple[float, Any]:
    """Return the seconds of a call until the device is done, and its result."""
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and rates of each precision."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    project, data = open_project(options.work.resolve(), options.tiny)
    params = Params.model_validate(base_values(project, options.tiny, "1 steps"))
    task, cache, texts = make_task("retrieval", params.tasks), FrameCache(project.frames), read_texts(project.manifest)
    torch.manual_seed(0)
    train = task.examples.read(texts, "train")
    model, processor = build_model(task, train, params.model, cached_frames_params(cache), params.evaluate.clips)
    model = model.to(device).eval()
    examples = task.examples.read(texts, "test")[: options.videos]
    examples = [replace(e, ids=e.ids[:1], texts=e.texts[:1], answers=e.answers[:1]) for e in examples]
    tokenize, clips, batch = ProcessorTokens(processor, device), params.evaluate.clips, params.evaluate.batch_size

    def rank(videos: Encoded, top_k: int | None) -> list[dict[str, Any]]:
        evaluator = task.evaluator.with_settings(params.evaluate.model_copy(update={"rerank_top_k": top_k}))
        return list(evaluator.predict(model, videos, examples, tokenize, batch))

    rows: dict[str, Any] = {}
    count = len(examples)
    for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
        with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
            encode_videos(model, processor, cache, examples[:16], clips)  # kernels and memory of these shapes
            encoding, videos = timed(device, lambda: encode_videos(model, processor, cache, examples, clips))
            every, _ = timed(device, lambda videos=videos: rank(videos, None))
            few, _ = timed(device, lambda videos=videos: rank(videos, min(RERANKED, count)))
        rows[name] = {
            "encode_s": round(encoding, 3),
            "clips_per_s": round(count * clips / encoding, 1),
            "every_pair_s": round(every, 3),
            "pairs_per_s": round(count * count / every, 1),
            "rerank_s": round(few, 3),
            "rerank_texts_per_s": round(count / few, 1),
        }
    return {"data": data, "gallery": count, "clips": clips, "rows": rows}


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("artifacts/gpu"), help="the folder of the kit")
    parser.add_argument("--videos", type=int, default=120, help="of the gallery, at most")
    parser.add_argument("--tiny", action="store_true", help="a check of this program without a GPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
