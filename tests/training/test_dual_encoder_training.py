"""Retrieval from a pretrained dual encoder: what trains, at which rate, what stays, and training for no epochs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dual_encoders import write_clip
from small_trainings import Log, finish, make_trainer

from clipbert.config.schema import Params
from clipbert.config.tasks import RetrievalParams
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.tasks.retrieval import RetrievalObjective
from clipbert.training.history import read_history, write_history
from clipbert.training.length import TrainingLength, length_lines, training_length
from clipbert.training.optim import make_optimizer
from clipbert.training.trainer import Trainer

DUAL = ("contrast.", "clipbert.vision.backbone.")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip")


def trainer(project: Path, out: Path, clip: Path, train: dict[str, Any] | None = None, **retrieval: Any) -> Trainer:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    rates = {"batch_size": 8, "lr": 0.001, "dual_encoder_lr": 0.0005, "min_steps": 0}
    params = Params.model_validate(
        {
            "model": {"dual_encoder": str(clip), **sizes},
            "train": rates | (train or {}),
            "tasks": {"retrieval": {"epochs": 2} | retrieval},
        }
    )
    return make_trainer(project, out, "retrieval", params)


def changed(made: Trainer) -> set[str]:
    """Train, and return which parts changed: "dual", "cross" or both."""
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    finish(made, Log())
    parts = set()
    for name, value in made.model.named_parameters():
        if not torch.equal(value, before[name]):
            parts.add("dual" if name.startswith(DUAL) else "cross")
    return parts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("retrieval", "parts", "losses"),
    [
        ({}, {"dual", "cross"}, {"contrastive", "matching"}),
        ({"freeze_dual_encoder": True}, {"cross"}, {"contrastive", "matching"}),
        ({"freeze_dual_encoder": True, "contrastive_weight": 0.0}, {"cross"}, {"contrastive", "matching"}),
        ({"cross_encoder": False}, {"dual"}, {"contrastive"}),
    ],
)
def test_both_train_and_either_can_be_frozen(
    retrieval: dict[str, Any], parts: set[str], losses: set[str], tiny_project: Path, tmp_path: Path, clip: Path
) -> None:
    made = trainer(tiny_project, tmp_path, clip, **retrieval)
    assert changed(made) == parts
    row = made.state.history[-1]
    assert losses == {"contrastive", "matching"} & row.keys()
    assert made.model.config.cross_encoder is ("cross" in parts)
    assert made.state.validation[-1]["retrieval/queries"] == 8


@pytest.mark.slow
def test_it_resumes_with_what_was_frozen(tiny_project: Path, tmp_path: Path, clip: Path) -> None:
    frozen = {"freeze_dual_encoder": True, "epochs": 4}
    stopped = trainer(tiny_project, tmp_path, clip, {"checkpoint_every_steps": 1}, **frozen)
    with pytest.raises(KeyboardInterrupt):
        finish(stopped, Log(stop_at=10))
    again = trainer(tiny_project, tmp_path, clip, {"checkpoint_every_steps": 1}, **frozen)
    state = finish(again, Log())
    assert state.step == 12
    assert not any(value.requires_grad for name, value in again.model.named_parameters() if name.startswith(DUAL))
    assert not again.model.contrast.training


def test_no_epochs_validate_the_source_and_train_nothing(tiny_project: Path, tmp_path: Path, clip: Path) -> None:
    made = trainer(tiny_project, tmp_path / "run", clip, {"budget": "5000 steps", "min_steps": 100}, epochs=0)
    log = Log()
    assert changed(made) == set()
    state = made.state
    assert (state.step, state.best_step, state.best_epoch, len(state.validation), state.history) == (0, 0, 0, 1, [])
    assert state.best == state.validation[0]["retrieval/mrr"] > 0
    assert log.steps == []
    assert not list((tmp_path / "run").glob("step-*"))
    write_history(tmp_path / "history", state.history, state.validation)
    training, validation = read_history(tmp_path / "history", "retrieval")
    assert list(training.columns) == ["step", "epoch", "loss"]
    assert (len(training), len(validation)) == (0, 1)


def test_no_epochs_are_no_steps() -> None:
    length = training_length(1100, 32, 1, 0, 250)
    assert length == TrainingLength(0, 0, 34, 1)
    assert length_lines("retrieval", 22, length, 250, 400) == [
        "retrieval: tasks.retrieval.epochs = 0: the initial weights are evaluated without training"
    ]


def test_both_halves_have_their_own_rate(tiny_project: Path, tmp_path: Path, clip: Path) -> None:
    made = trainer(tiny_project, tmp_path, clip, {"lr_multipliers": {"contrast.logit_scale": 2.0}})
    optimizer = make_optimizer(made.model, made.params)
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates["contrast.text_projection.weight"] == 0.0005
    assert rates["clipbert.vision.backbone.model.embeddings.class_embedding"] == 0.0005
    assert rates["contrast.logit_scale"] == 0.001
    assert rates["clipbert.vision.projection.weight"] == made.params.vision_lr
    assert rates["clipbert.pooler.dense.weight"] == 0.001


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"freeze_dual_encoder": True}, "freeze_dual_encoder is true, but this model has no pretrained dual encoder"),
        ({"cross_encoder": False, "contrastive_weight": 0.0}, "nothing scores a text and a video"),
    ],
)
def test_a_model_without_one_cannot_use_it(params: dict[str, Any], message: str) -> None:
    objective = RetrievalObjective("retrieval", RetrievalParams(**params))
    model = ClipBertForRetrieval(ClipBertConfig.tiny(**objective.config_fields([])))
    with pytest.raises(ClipBertError, match=message):
        objective.prepare_model(model)


@pytest.mark.parametrize(
    ("retrieval", "message"),
    [
        ({"contrastive_weight": 0.0}, "nothing trains the text half of model.dual_encoder"),
        ({"freeze_dual_encoder": True, "cross_encoder": False}, "nothing is left to train"),
    ],
)
def test_contradictions_are_refused(
    retrieval: dict[str, Any], message: str, tiny_project: Path, tmp_path: Path, clip: Path
) -> None:
    with pytest.raises(ClipBertError, match=message):
        trainer(tiny_project, tmp_path, clip, **retrieval).resume()


def test_the_own_dual_encoder_alone_trains_without_the_head(tiny_project: Path, tmp_path: Path) -> None:
    """`cross_encoder: false` without a pretrained dual encoder: the classifier and the pooler are not used."""
    objective = RetrievalObjective("retrieval", RetrievalParams(cross_encoder=False))
    model = ClipBertForRetrieval(ClipBertConfig.tiny(**objective.config_fields([])))
    objective.prepare_model(model)
    fixed = {
        name.split(".")[0] + "." + name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad
    }
    assert fixed == {"classifier.0", "classifier.2", "clipbert.pooler"}
