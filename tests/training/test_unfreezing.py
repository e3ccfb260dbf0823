"""A frozen backbone that is trained from a fraction of the training on: from features first, then from pixels."""

import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_trainings import Log, finish, make_trainer, params
from torch import Tensor
from trainings import finished, kill_group, same, seen_steps, settings, started, steps_of, weights_of

from clipbert.config.budget import Budget
from clipbert.config.schema import EvaluateParams, FramesParams, Params
from clipbert.errors import ClipBertError
from clipbert.evaluation.run import evaluate_model
from clipbert.feature_cache.build import find_features, open_features
from clipbert.training.budget import BudgetTracker, ResourceUsage
from clipbert.training.checkpoint import Checkpoints
from clipbert.training.early_stopping import out_of_patience
from clipbert.training.export import export
from clipbert.training.lr_schedule import lr_lambda
from clipbert.training.trainer import Trainer

SWITCH, STEPS = 6, 12


def make_params(**train: Any) -> Params:
    """Return the parameters of 12 steps in 4 epochs, of which the last 6 train the backbone."""
    values = {"freeze_vision": True, "feature_cache": True, "unfreeze_at": 0.5, "vision_lr_decay": 0.7}
    values |= {"ema_decay": 0.9, "schedule": "cosine", "checkpoint_every_steps": 1, "keep_checkpoints": 20}
    values["augment"] = {"min_crop_area": 0.6}
    made = params(**values | train)
    retrieval = made.tasks.retrieval.model_copy(update={"video_head": "direct", "cross_encoder": False})
    return made.model_copy(update={"tasks": made.tasks.model_copy(update={"retrieval": retrieval})})


def make_cached(project: Path, folder: Path, made: Params, features: Path) -> Trainer:
    trainer = make_trainer(project, folder, "retrieval", made)
    trainer.features = open_features(features, trainer.model, trainer.processor, trainer.cache)
    return trainer


def backbone_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items() if ".vision.backbone." in name}


@dataclass
class LogWithoutFeatures(Log):
    """Log that removes the features with the last validation of the frozen backbone."""

    features: Path = Path()

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        super().log_metrics(values, step)
        if step == SWITCH:
            shutil.rmtree(self.features)


class EveryStep(Checkpoints):
    """Checkpoints that never skip a step because the previous one is still being written."""

    busy = False  # type: ignore[assignment]


@pytest.fixture(scope="module")
def straight(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """An uninterrupted training, all its checkpoints, and its features removed when the backbone starts to train."""
    folder = tmp_path_factory.mktemp("unfreezing")
    trainer = make_cached(tiny_project, folder / "run", make_params(), folder / "features")
    trainer.checkpoints.__class__ = EveryStep
    finish(trainer, LogWithoutFeatures(features=folder / "features"))
    trainer.checkpoints.finish()
    return trainer


@pytest.fixture(scope="module")
def features(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of the initial backbone."""
    folder = tmp_path_factory.mktemp("features")
    make_cached(tiny_project, folder / "run", make_params(), folder / "features")
    return folder / "features"


@pytest.mark.slow
def test_the_backbone_trains_from_its_step_on_and_no_feature_is_read_after_it(straight: Trainer) -> None:
    assert straight.state.phases["vision"][0] == SWITCH
    assert not Path(straight.features.path).exists()  # type: ignore[union-attr]
    assert [row["step"] for row in straight.state.validation] == [3, 6, 9, 12]
    first, switch, last = (backbone_of(straight.checkpoints.read(step)[1]["model"]) for step in (1, SWITCH, STEPS))
    assert same(first, switch)
    assert all(not torch.equal(last[name], value) for name, value in switch.items())
    rates = {group["phase"]: group["lr"] / group["peak_lr"] for group in straight.step.optimizer.param_groups}
    assert rates[""] == pytest.approx(lr_lambda(STEPS - 1, STEPS, straight.params))
    assert rates["vision"] == pytest.approx(lr_lambda(STEPS - 1 - SWITCH, STEPS - SWITCH, straight.params))
    assert rates["vision"] > rates[""]
    _, state, _ = straight.checkpoints.read(SWITCH)
    assert not any(".vision.backbone." in name for name in state["ema"]["mean"])
    _, state, _ = straight.checkpoints.read(STEPS)
    mean = backbone_of(state["ema"]["mean"])
    assert mean
    assert all(
        not torch.equal(value, last[name]) and not torch.equal(value, first[name]) for name, value in mean.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", [SWITCH - 2, SWITCH, SWITCH + 2])
def test_a_kill_before_at_and_after_the_switch_changes_nothing(
    tiny_project: Path, tmp_path: Path, straight: Trainer, features: Path, killed_after: int
) -> None:
    shutil.copytree(straight.checkpoints.folder, tmp_path / "run")
    for path in (tmp_path / "run").glob("step-*"):
        if int(path.name.removeprefix("step-")) > killed_after:
            shutil.rmtree(path)
    again = make_cached(tiny_project, tmp_path / "run", make_params(), features)
    assert again.checkpoints.newest() == killed_after
    state = finish(again, Log())
    again.checkpoints.finish()
    assert state.phases["vision"][0] == SWITCH
    assert state.validation == straight.state.validation
    assert same(again.model.state_dict(), straight.model.state_dict())
    assert same(again.checkpoints.read(STEPS)[1]["model"], straight.checkpoints.read(STEPS)[1]["model"])


@pytest.mark.slow
def test_evaluation_of_the_trained_backbone_reads_no_features_of_the_frozen_one(
    tiny_project: Path, tmp_path: Path, straight: Trainer, features: Path
) -> None:
    initial = make_trainer(tiny_project, tmp_path / "initial", "retrieval", make_params())
    _, state, _ = straight.checkpoints.read(STEPS)
    made = make_trainer(tiny_project, tmp_path / "made", "retrieval", make_params())
    made.model.load_state_dict(state["model"] | state["ema"]["mean"])
    made.model.eval()
    assert find_features(features, initial.model, initial.processor, initial.cache) is not None
    assert find_features(features, made.model, made.processor, made.cache) is None
    export(made.model, made.processor, tmp_path / "model", "a card")
    artifacts = tiny_project / "artifacts"
    folders = (tmp_path / "model", made.task, artifacts / "manifest", artifacts / "frames")
    found = evaluate_model(*folders, EvaluateParams(), FramesParams(), "val", features)
    last = straight.state.validation[-1]
    for name in ("retrieval/r1", "retrieval/mrr", "retrieval/median_rank"):
        assert found.metrics[name] == pytest.approx(last[name], abs=1e-3)


@pytest.mark.slow
def test_two_processes_resume_to_the_bit_after_the_switch_and_compute_what_one_does(
    tiny_project: Path, tmp_path: Path
) -> None:
    asked = settings(freeze_vision=True, unfreeze_at=0.5, ema_decay=0.9) | {"double": True}
    alone, pair, killed = (tmp_path / name for name in ("alone", "pair", "killed"))
    processes = [started(tiny_project, alone, asked), started(tiny_project, pair, asked, processes=2)]
    assert all("the backbone is trained too from step 6 on" in finished(process) for process in processes)
    for name, weights in weights_of(alone).items():
        torch.testing.assert_close(weights_of(pair)[name], weights, rtol=1e-6, atol=1e-9, msg=name)

    process = started(tiny_project, killed, asked, processes=2)
    seen_steps(killed, 9)
    kill_group(process)
    assert "Resuming retrieval at step" in finished(started(tiny_project, killed, asked, processes=2))
    assert steps_of(killed) == steps_of(pair)
    assert same(weights_of(killed), weights_of(pair))


@pytest.mark.slow
def test_a_budget_of_time_unfreezes_too(tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=count(step=0.02).__next__)  # seconds that pass at each look
    monkeypatch.setattr("clipbert.training.budget.time", clock)
    trainer = make_trainer(tiny_project, tmp_path, "open_qa", params(budget="2 s", freeze_vision=True, unfreeze_at=0.5))
    before = backbone_of(trainer.model.state_dict())
    state = finish(trainer, Log())
    assert 0.3 < state.phases["vision"][0] / state.step < 0.7
    trainer.checkpoints.finish()
    after = backbone_of(trainer.checkpoints.read(state.step)[1]["model"])
    assert not same(before, after)


def test_what_else_keeps_the_backbone_frozen_is_named(tiny_project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", make_params(feature_cache=False))
    trainer.model.clipbert.vision.freeze_backbone()
    with pytest.raises(ClipBertError, match=r"train\.unfreeze_at is 0\.5, but another parameter keeps .* frozen"):
        trainer.resume()


def test_patience_starts_at_the_switch() -> None:
    rows = [{"step": epoch, "epoch": epoch, "task/score": value} for epoch, value in enumerate((3.0, 2.0, 1.0), 1)]
    assert out_of_patience(rows, "task/score", 2)
    assert not out_of_patience(rows, "task/score", 2, start=2)
    assert out_of_patience([*rows, {"step": 4, "epoch": 4, "task/score": 0.0}], "task/score", 2, start=2)


def test_costs_of_the_frozen_part_do_not_end_the_other() -> None:
    tracker = BudgetTracker(Budget.parse("100 s"), 0)
    tracker.record_step(ResourceUsage(0, 0.0), ResourceUsage(1, 30.0))
    tracker.record_validation(ResourceUsage(1, 30.0), ResourceUsage(1, 60.0))
    assert tracker.finished(ResourceUsage(2, 60.0))
    tracker.forget_costs()
    assert not tracker.finished(ResourceUsage(2, 60.0))
