"""Phases: a cross-encoder whose training begins after a fraction of the training, alone and with a backbone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import Log, finish, make_trainer, params
from torch import Tensor
from trainings import same

from clipbert.config.load import load_params
from clipbert.config.schema import Params
from clipbert.config.training import TrainParams
from clipbert.errors import ClipBertError
from clipbert.training.checkpoint import Checkpoints
from clipbert.training.lr_schedule import lr_lambda
from clipbert.training.phases import TASK, VISION, lr_factors, phase_starts, phases_to_begin
from clipbert.training.trainer import Trainer

PARAMS = Path(__file__).parents[2] / "params.yaml"
START, STEPS = 6, 12


class EveryStep(Checkpoints):
    """Checkpoints that never skip a step because the previous one is still being written."""

    busy = False  # type: ignore[assignment]


def make_params(retrieval: dict[str, Any], **train: Any) -> Params:
    """Return the parameters of 12 steps in 4 epochs, each with a checkpoint."""
    made = params(
        **{"checkpoint_every_steps": 1, "keep_checkpoints": 20, "ema_decay": 0.9, "schedule": "cosine"} | train
    )
    section = made.tasks.retrieval.model_copy(update={"cross_encoder_start": 0.5} | retrieval)
    return made.model_copy(update={"tasks": made.tasks.model_copy(update={"retrieval": section})})


def trained(project: Path, folder: Path, made: Params) -> tuple[Trainer, Log]:
    trainer, log = make_trainer(project, folder, "retrieval", made), Log()
    trainer.checkpoints.__class__ = EveryStep
    finish(trainer, log)
    trainer.checkpoints.finish()
    return trainer, log


def weights(trainer: Trainer, step: int) -> dict[str, Tensor]:
    """Return the trained weights of the parts that only the cross-encoder uses, after a step."""
    model = trainer.checkpoints.read(step)[1]["model"]
    return {name: model[name] for name in trainer.task.objective.late_parameters}


@pytest.fixture(scope="module")
def direct(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Log]:
    """An uninterrupted training with a direct video head, and what it logged."""
    return trained(tiny_project, tmp_path_factory.mktemp("phases") / "run", make_params({"video_head": "direct"}))


def test_phases_begin_in_the_order_of_their_fractions() -> None:
    assert list(phase_starts(0.5, 0.25)) == [TASK, VISION]
    assert phase_starts(None, None) == {}
    starts = phase_starts(0.25, 0.5)
    assert phases_to_begin(starts, {}, 2, 12) == []
    assert phases_to_begin(starts, {}, 3, 12) == [VISION]
    assert phases_to_begin(starts, {VISION: (3, 3.0)}, 6, 12) == [TASK]
    assert phases_to_begin(starts, {}, 6, 12) == [VISION, TASK]
    assert phases_to_begin(starts, {VISION: (3, 3.0), TASK: (6, 6.0)}, 11, 12) == []


def test_each_phase_has_a_warm_up_and_a_schedule_of_its_own() -> None:
    train = TrainParams(schedule="cosine", warmup_fraction=0.2)
    factors = lr_factors({VISION: (20, 20.0), TASK: (60, 60.0)}, 60, 100, train)
    assert factors == {
        "": lr_lambda(60, 100, train),
        VISION: lr_lambda(40, 80, train),
        TASK: lr_lambda(0, 40, train),
    }
    assert factors[TASK] == pytest.approx(1 / 8)


@pytest.mark.slow
def test_the_cross_encoder_trains_from_its_step_on(direct: tuple[Trainer, Log]) -> None:
    trainer, log = direct
    assert trainer.state.phases == {TASK: (START, START)}
    late = trainer.task.objective.late_parameters
    assert {name.split(".")[0] for name in late} == {"classifier", "clipbert"}
    assert not any(name.startswith(("contrast.", "clipbert.encoder.")) for name in late)
    assert same(weights(trainer, 1), weights(trainer, START))
    before, after = weights(trainer, START), weights(trainer, STEPS)
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    logged = {step: values for step, values in log.steps if "train/loss" in values}
    assert "train/matching" not in logged[min(logged)] or min(logged) > START
    assert "train/matching" in logged[STEPS]
    rates = {group["phase"]: group["lr"] / group["peak_lr"] for group in trainer.step.optimizer.param_groups}
    assert rates[""] == pytest.approx(lr_lambda(STEPS - 1, STEPS, trainer.params))
    assert rates[TASK] == pytest.approx(lr_lambda(STEPS - 1 - START, STEPS - START, trainer.params))


@pytest.mark.slow
def test_before_its_start_the_cross_encoder_adds_nothing_to_the_score(direct: tuple[Trainer, Log]) -> None:
    rows = {row["step"]: row for row in direct[0].state.validation}
    assert rows[3]["retrieval/r1"] == rows[3]["retrieval/dual_encoder_r1"]
    assert rows[6]["retrieval/r5"] == rows[6]["retrieval/dual_encoder_r5"]
    model = direct[0].checkpoints.read(START)[1]["model"]
    last = [name for name in direct[0].task.objective.late_parameters if name.startswith("classifier.")]
    assert sum(int(not model[name].any()) for name in last) >= 2  # weight and bias of the last layer


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", [START - 1, START, START + 2])
def test_a_kill_before_at_and_after_the_start_changes_nothing(
    tiny_project: Path, tmp_path: Path, direct: tuple[Trainer, Log], killed_after: int
) -> None:
    straight, _ = direct
    shutil.copytree(straight.checkpoints.folder, tmp_path / "run")
    for path in (tmp_path / "run").glob("step-*"):
        if int(path.name.removeprefix("step-")) > killed_after:
            shutil.rmtree(path)
    again, _ = trained(tiny_project, tmp_path / "run", make_params({"video_head": "direct"}))
    assert again.state.phases == {TASK: (START, START)}
    assert again.state.validation == straight.state.validation
    assert same(again.model.state_dict(), straight.model.state_dict())


@pytest.mark.slow
def test_the_backbone_and_the_cross_encoder_begin_one_after_the_other(tiny_project: Path, tmp_path: Path) -> None:
    made = make_params({"cross_encoder_start": 0.75}, freeze_vision=True, unfreeze_at=0.25, patience=1)
    trainer, _ = trained(tiny_project, tmp_path / "run", made)
    assert {phase: step for phase, (step, _) in trainer.state.phases.items()} == {VISION: 3, TASK: 9}
    assert {name.split(".")[1] for name in trainer.task.objective.late_parameters if "clipbert" in name} == {"pooler"}
    assert trainer.state.step >= 9  # no early stopping before the last phase


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (["tasks.retrieval.cross_encoder=false"], "cross_encoder is false: no cross-encoder is trained"),
        (
            ["tasks.retrieval.contrastive_weight=0"],
            "contrastive_weight is 0: the model has no dual encoder",
        ),
    ],
)
def test_a_start_needs_a_dual_encoder_before_and_a_cross_encoder_after(
    tiny_project: Path, tmp_path: Path, settings: list[str], found: str
) -> None:
    section = load_params(PARAMS, ["tasks.retrieval.cross_encoder_start=0.5", *settings]).tasks.retrieval
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", make_params(section.model_dump()))
    with pytest.raises(ClipBertError, match=rf"cross_encoder_start is 0\.5, but tasks\.retrieval\.{found}"):
        trainer.resume()


def test_a_start_is_a_fraction_below_one() -> None:
    with pytest.raises(
        ClipBertError, match=r"cross_encoder_start = 1: expected less than 1 \(fraction of the training"
    ):
        load_params(PARAMS, ["tasks.retrieval.cross_encoder_start=1"])
