"""Trainings of a small model in this process, and what they build on."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipbert.config.schema import Params
from clipbert.data.manifest import read_texts
from clipbert.distributed.context import DistributedContext
from clipbert.frame_cache import FrameCache
from clipbert.tasks import make_task
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Example
from clipbert.training.batch_iterator import SynchronizedBatchIterator
from clipbert.training.checkpoint import Checkpoints, TrainState
from clipbert.training.data import Batches, TrainingSamples
from clipbert.training.setup import build_model
from clipbert.training.stopping import StopRequest
from clipbert.training.trainer import Trainer

TASKS = ("retrieval", "open_qa", "multiple_choice", "image_qa", "captioning", "pretrain")


@dataclass
class Log:
    """Tracker that keeps what it records, and interrupts the training at a step."""

    run_id: str | None = "run"
    steps: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    stop_at: int | None = None

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.steps.append((step, values))
        if step == self.stop_at:
            raise KeyboardInterrupt

    def flush(self) -> None:
        pass


def params(**train: object) -> Params:
    values = {"batch_size": 8, "checkpoint_every_steps": 2, "lr": 0.001, "min_steps": 0} | train
    return Params.model_validate(
        {
            "train": values,
            "tasks": {name: {"epochs": 4} for name in TASKS},
            "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48},
        }
    )


def build_from_params(
    task: Task, examples: list[Example], params: Params, extra_texts: Iterable[str] = ()
) -> tuple[Any, Any]:
    """Build the model and the processor from the sections of `params`, as `clipbert train` does."""
    return build_model(task, examples, params.model, params.frames, params.evaluate.clips, extra_texts)


def make_trainer(
    project: Path,
    folder: Path,
    task_name: str,
    params: Params,
    environment: dict[str, Any] | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008
    context: DistributedContext = DistributedContext(),  # noqa: B008
) -> Trainer:
    """Create a training on the manifest and the frames of `project`, with its checkpoints in `folder`."""
    task = make_task(task_name, params.tasks)
    texts = read_texts(project / "artifacts" / "manifest")
    examples, val = task.examples.read(texts, "train"), task.examples.read(texts, "val")
    torch.manual_seed(params.seed)
    model, processor = build_from_params(task, examples, params)
    checkpoints = Checkpoints(folder, {}, params.train.keep_checkpoints, environment)
    return Trainer(
        task,
        model,
        processor,
        FrameCache(project / "artifacts" / "frames"),
        examples,
        val,
        params.train,
        params.seed,
        params.evaluate.batch_size,
        checkpoints,
        device,
        context,
    )


def finish(trainer: Trainer, log: Log) -> TrainState:
    """Train to the end or to what interrupts it, and wait for the checkpoint that is being written."""
    trainer.resume()
    try:
        return trainer.train(log)
    finally:
        trainer.checkpoints.finish()


def batches_of(trainer: Trainer, num_workers: int = 0) -> SynchronizedBatchIterator:
    """Return the batches of a resumed training from step 0 on."""
    samples = TrainingSamples(trainer.cache, trainer.train_examples, trainer.task, trainer.model.config, trainer.seed)
    batches = Batches(samples, trainer.make_sampler(), trainer.processor, num_workers, trainer.device)
    stop = StopRequest(0, bound=False)
    return SynchronizedBatchIterator(
        batches, DistributedContext(), stop, lambda: False, lambda: SystemExit(0), trainer.step.monitor
    )
