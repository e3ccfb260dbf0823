"""Steps of every task and kind of training, with their batches from the loader, never wait for the GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import batches_of, make_trainer

from benchmarks.gpu.project import draw_project
from clipbert.config.schema import Params
from clipbert.config.tasks import task_names
from clipbert.training.checkpoint import rng_states
from clipbert.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]

DEVICE = torch.device("cuda")
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "clips": 2}
SMALL = {"contrastive_weight": 1.0, "video_head": "direct", "cross_encoder": False}
KINDS: dict[str, dict[str, Any]] = {
    "bf16": {"train": {"precision": "bf16"}},
    "fp16": {"train": {"precision": "fp16"}},
    "accumulation": {"train": {"batch_size": 4, "gradient_accumulation_steps": 2}},
    "moving average and smoothing": {"train": {"ema_decay": 0.9, "label_smoothing": 0.1}},
    "checkpointing": {"train": {"activation_checkpointing": True}},
    "direct head": {"tasks": {"retrieval": SMALL}},
    "two workers": {"train": {"num_workers": 2}},
}
WARM_UP = 2  # the first step makes the moments, counts operations and allocates


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of drawn videos."""
    return draw_project(tmp_path_factory.mktemp("drawn"), {"train": 16, "val": 4, "test": 4}, 64).root


@contextmanager
def waits_are_errors() -> Iterator[None]:
    """Raise an error where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trained(project: Path, folder: Path, task: str, changes: dict[str, Any]) -> Trainer:
    """Train some steps; those after the first ones must not wait."""
    train = {"batch_size": 8, "min_steps": 0, **changes.get("train", {})}
    params = Params.model_validate({"model": SIZES, **changes, "train": train})
    trainer = make_trainer(project, folder, task, params, device=DEVICE)
    trainer.resume()
    batches, rng = batches_of(trainer, params.train.num_workers), rng_states()
    accumulated = params.train.gradient_accumulation_steps
    for _ in range(WARM_UP):
        trainer.step.run(batches, accumulated, rng)
    for _ in range(2):
        with waits_are_errors():
            output = trainer.step.run(batches, accumulated, rng)
        assert torch.isfinite(output.losses["loss"])
    return trainer


@pytest.mark.parametrize("task", task_names())
def test_no_task_waits(project: Path, tmp_path: Path, task: str) -> None:
    trained(project, tmp_path, task, {})


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_training_waits(project: Path, tmp_path: Path, kind: str) -> None:
    trained(project, tmp_path, "retrieval", KINDS[kind])


def test_batches_come_from_page_locked_memory(project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(project, tmp_path, "retrieval", Params.model_validate({"model": SIZES}), device=DEVICE)
    trainer.resume()
    batches = batches_of(trainer).batches
    on_host = next(batches._iterator)
    tensors = [value for value in vars(on_host).values() if isinstance(value, torch.Tensor)]
    assert tensors
    assert all(value.is_pinned() for value in tensors)
    assert next(batches).input_ids.device.type == DEVICE.type


def test_draws_do_not_depend_on_the_device(project: Path, tmp_path: Path) -> None:
    """Frames, texts and negatives of a batch are those of a training on a CPU; only dropout draws on the device."""
    params = Params.model_validate({"model": SIZES, "train": {"batch_size": 8}})
    found = []
    for device in (torch.device("cpu"), DEVICE):
        trainer = make_trainer(project, tmp_path / device.type, "retrieval", params, device=device)
        trainer.resume()
        found.append(next(batches_of(trainer)))
    on_cpu, on_gpu = found
    assert on_cpu.ids == on_gpu.ids
    for name, value in vars(on_cpu).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(on_gpu, name).cpu()), name
