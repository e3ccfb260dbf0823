"""A retrieval evaluation as a program of one or several processes, which can be killed after some blocks of scores."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from trainings import started_in_ranks

from clipbert.config.schema import Params
from clipbert.console import console
from clipbert.distributed.context import device_of_this_process, init_distributed
from clipbert.evaluation.run import evaluate_share
from clipbert.tasks import gallery_scores, make_task
from clipbert.tasks.score_store import ScoreStore


def started(
    project: Path, model: Path, out: Path, rerank: int | None, processes: int = 1, stop_after: int | None = None
) -> Any:
    """Start this program; it writes items.parquet and metrics.json into `out`.

    Args:
        stop_after: number of blocks after which the program kills itself.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [__file__, str(project), str(model), str(out), json.dumps(rerank), json.dumps(stop_after)]
    return started_in_ranks(command, processes)


def main(project: Path, model: Path, out: Path, rerank: int | None, stop_after: int | None) -> None:
    torch.set_num_threads(1)
    gallery_scores.MAX_BLOCK_TEXTS = 2
    write = ScoreStore.write

    def write_and_stop(self: ScoreStore, index: int, arrays: Any) -> None:
        write(self, index, arrays)
        if index + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGKILL)

    ScoreStore.write = write_and_stop  # type: ignore[method-assign]
    params = Params.model_validate({"evaluate": {"clips": 1, "batch_size": 5, "rerank_top_k": rerank}})
    artifacts, task = project / "artifacts", make_task("retrieval", params.tasks)
    with init_distributed(device_of_this_process()) as context:
        console.quiet = not context.first
        found = evaluate_share(
            model,
            task,
            artifacts / "manifest",
            artifacts / "frames",
            params.evaluate,
            params.frames,
            scores_dir=out / "scores",
            context=context,
        )
    if found is not None:
        found.items.to_parquet(out / "items.parquet")
        (out / "metrics.json").write_text(json.dumps(found.metrics))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]), json.loads(sys.argv[5]))
