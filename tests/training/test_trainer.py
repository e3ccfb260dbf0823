"""Training loop: it learns, resumes bit for bit, and stops after too many non-finite losses."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_trainings import Log, batches_of, finish, make_trainer, params

from clipbert import pipeline
from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError
from clipbert.model.confidence import Confidence
from clipbert.training.checkpoint import TrainState, rng_states
from clipbert.training.data import DistributedBatchSampler, TrainingSamples, training_batches
from clipbert.training.export import export
from clipbert.training.measure_confidence import measure_confidence
from clipbert.training.trainer import Trainer


@pytest.mark.parametrize(
    ("task", "batches"),
    [
        ("retrieval", {}),
        ("open_qa", {}),
        ("multiple_choice", {}),
        ("pretrain", {"batch_size": 4}),
        ("retrieval", {"batch_size": 4, "gradient_accumulation_steps": 2}),
        ("open_qa", {"batch_size": 2, "gradient_accumulation_steps": 4}),
        ("retrieval", {"ema_decay": 0.9, "schedule": "cosine", "lr_multipliers": {"clipbert.embeddings": 0.1}}),
        ("captioning", {"budget": "12 steps", "freeze_vision": True, "label_smoothing": 0.1}),
    ],
)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    tiny_project: Path, tmp_path: Path, task: str, batches: dict[str, object]
) -> None:
    straight = make_trainer(tiny_project, tmp_path / "straight", task, params(**batches))
    undisturbed = finish(straight, Log())
    assert undisturbed.step == 12

    # Killed while logging step 10: an earlier checkpoint is written, that of step 10 is not.
    with pytest.raises(KeyboardInterrupt):
        finish(make_trainer(tiny_project, tmp_path / "killed", task, params(**batches)), Log(stop_at=10))
    resumed = make_trainer(tiny_project, tmp_path / "killed", task, params(**batches))
    log = Log()
    state = finish(resumed, log)

    assert 1 < log.steps[0][0] <= 10
    assert state.history[-1]["loss"] == undisturbed.history[-1]["loss"]
    assert [row["epoch"] for row in state.validation] == [1, 2, 3, 4]
    assert [row["step"] for row in state.history] == [row["step"] for row in undisturbed.history]
    for (name, a), b in zip(straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_budget_of_steps_is_what_is_trained_whatever_the_epochs_are(tiny_project: Path, tmp_path: Path) -> None:
    log = Log()
    state = finish(make_trainer(tiny_project, tmp_path, "retrieval", params(budget="20 steps")), log)
    assert state.step == 20
    assert [row["epoch"] for row in state.validation] == [1, 2, 3, 4, 5, 6, 7]
    assert state.validation[-1]["step"] == 20
    assert state.history[-1]["lr"] == pytest.approx(0.001 / 18)  # the last of 18 steps that fall to zero


def test_a_budget_of_seconds_ends_trained_at_it(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=itertools.count(step=0.02).__next__)  # seconds that pass at each look
    monkeypatch.setattr("clipbert.training.budget.time", clock)
    state = finish(make_trainer(tiny_project, tmp_path, "retrieval", params(budget="6 s")), Log())
    assert 5 < state.seconds < 7
    assert state.history[-1]["lr"] < 0.2 * max(row["lr"] for row in state.history)
    assert state.validation[-1]["step"] == state.step


def test_training_ends_when_patience_does_also_after_a_resume(tiny_project: Path, tmp_path: Path) -> None:
    settings = params(patience=2, lr=1e-9, vision_lr=1e-9)  # nothing is learned, so nothing becomes better
    state = finish(make_trainer(tiny_project, tmp_path, "open_qa", settings), Log())
    assert [row["epoch"] for row in state.validation] == [1, 2, 3]
    assert (state.step, state.best_epoch) == (9, 1)
    again = finish(make_trainer(tiny_project, tmp_path, "open_qa", settings), Log())
    assert again.step == 9


def test_patience_grows_with_the_epochs_that_min_steps_adds(tiny_project: Path, tmp_path: Path) -> None:
    settings = params(patience=2, lr=1e-9, vision_lr=1e-9, min_steps=24)
    state = finish(make_trainer(tiny_project, tmp_path, "open_qa", settings), Log())
    assert [row["epoch"] for row in state.validation] == [2, 4, 6]  # 8 epochs, of which every second is validated
    assert (state.step, state.best_epoch) == (18, 2)


def test_small_batches_make_the_gradient_of_the_large_one(tiny_project: Path, tmp_path: Path) -> None:
    gradients, losses = [], []
    for batch_size, gradient_accumulation_steps in ((8, 1), (2, 4)):
        settings = params(
            batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps, max_grad_norm=1e9
        )
        open_qa = settings.tasks.open_qa.model_copy(update={"caption_weight": 0.0, "questions_per_video": 1})
        settings = settings.model_copy(update={"tasks": settings.tasks.model_copy(update={"open_qa": open_qa})})
        trainer = make_trainer(tiny_project, tmp_path / str(batch_size), "open_qa", settings)
        trainer.resume()
        trainer.model.eval()  # no dropout, and batch norms that don't depend on the batch
        output = trainer.step.run(batches_of(trainer), gradient_accumulation_steps, rng_states())
        assert sum(len(batch.ids) for batch in output.batches) == 8
        losses.append(output.losses["loss"].item())
        gradients.append({name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-3


@pytest.mark.parametrize("task", ["open_qa", "multiple_choice", "image_qa"])
def test_the_loss_falls_and_the_exported_model_loads(
    tiny_project: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipbert.model import load

    trainer = make_trainer(tiny_project, tmp_path / "checkpoints", task, params(lr=0.003))
    first = trainer.task.objective.loss(trainer.model, next(iter(_batches(trainer))))[0].item()
    state = finish(trainer, Log())
    assert state.history[-1]["loss"] < first
    assert state.best == max(row[f"{task}/accuracy"] for row in state.validation)
    measured = (trainer.model, trainer.processor, trainer.inputs, trainer.train_examples, trainer.val_examples, 64)
    assert measure_confidence(*measured).videos is None  # 8 validation videos are too few
    monkeypatch.setattr("clipbert.training.measure_confidence.FEWEST", 4)
    confidence = measure_confidence(*measured)
    export(trainer.model, trainer.processor, tmp_path / "model", "a card", confidence)
    assert (tmp_path / "model" / "README.md").read_text() == "a card"
    assert_confidence(pipeline(task, tmp_path / "model"), trainer, confidence)
    loaded = load(tmp_path / "model")
    assert loaded.config.answers == trainer.model.config.answers
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trainer.model.parameters(), strict=True))


def assert_confidence(pipe: Any, trainer: Trainer, confidence: Confidence) -> None:
    """Check that a pipeline has the confidence of its training, and tells other input from that of the training."""
    assert pipe.confidence == confidence
    assert (pipe.calibration is None) == (trainer.task.name == "image_qa")  # each answer has a score of its own
    if pipe.calibration is not None:
        assert pipe.calibration.questions == sum(len(example.texts) for example in trainer.val_examples)
        assert 0 <= pipe.calibration.ece_after <= 100
    example = trainer.train_examples[0]
    seen = trainer.cache[example.media].images
    assert pipe.remarks(seen, example.texts) == []
    white = np.full((4, 64, 64, 3), 255, np.uint8)
    *far, words = pipe.remarks(white, ["what yoga pose?"])
    assert words == "words that no training text has: yoga, pose"
    noticed = r"unlike the training videos \(distance \d+\.\d times the 99th percentile\)"
    assert all(re.fullmatch(noticed, remark) for remark in far)
    assert far or trainer.task.name == "image_qa"  # four steps do not teach the difference
    if trainer.task.name == "open_qa":
        found = pipe(seen, example.texts[0], top=2)
        everything = pipe(seen, example.texts[0], top=99)
        assert sum(row["confidence"] for row in everything) == pytest.approx(1)
        assert [row["confidence"] for row in found] == [row["confidence"] for row in everything[:2]]


def test_a_model_with_nan_weights_stops_the_training(tiny_project: Path, tmp_path: Path) -> None:
    # 24 steps an epoch: the steps are refused before the first validation
    trainer = make_trainer(tiny_project, tmp_path / "checkpoints", "open_qa", params(batch_size=1))
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    # counted with the next checkpoint or logged step, whichever comes first
    with pytest.raises(ClipBertError, match=r"(1[1-9]|20) steps .* non-finite .* train.max_bad_steps = 10.*question-"):
        finish(trainer, Log())


def test_a_validation_without_scores_names_the_item(tiny_project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_project, tmp_path / "checkpoints", "open_qa", params())
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(ClipBertError, match=r"the item question-\d+ .* is not a number, and so for 24"):
        finish(trainer, Log())


class FixedEnergy:
    """Energy meter that always reports 5 joules."""

    def joules(self) -> float:
        return 5.0


class WithAllVideos(Trainer):
    """Trainer that uses all videos on every rank."""

    def make_sampler(self, step: int = 0) -> DistributedBatchSampler:
        return Trainer.make_sampler(replace(self, context=DistributedContext()), step)


def test_energy_of_all_processes_is_counted_once_after_a_resume(tiny_project: Path, tmp_path: Path) -> None:
    for rank, joules in ((0, 105.0), (1, 5.0)):
        trainer = make_trainer(
            tiny_project, tmp_path / str(rank), "retrieval", params(), context=DistributedContext(rank)
        )
        trainer.__class__ = WithAllVideos
        trainer.resume()
        trainer.state = TrainState(step=12, joules=100.0, validation=[{"step": 12, "epoch": 4, "retrieval/mrr": 1.0}])
        trainer.step.monitor.energy = FixedEnergy()  # type: ignore[assignment]
        trainer.train(Log())
        assert trainer.step.monitor.joules() == joules


def _batches(trainer: Trainer):  # type: ignore[no-untyped-def]
    sampler = DistributedBatchSampler(len(trainer.train_examples), 8, 1, 0)
    samples = TrainingSamples(trainer.cache, trainer.train_examples, trainer.task, trainer.model.config, 0)
    return training_batches(samples, sampler, trainer.processor, 0, pin_memory=False)
