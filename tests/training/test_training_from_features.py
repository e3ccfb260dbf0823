"""Training from a feature cache computes what training from pixels with a frozen backbone computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_trainings import Log, finish, make_trainer

from clipbert.config.schema import EvaluateParams, FramesParams, Params
from clipbert.evaluation.run import evaluate_model
from clipbert.feature_cache.build import open_features
from clipbert.frame_cache import FrameCache
from clipbert.tasks import make_task
from clipbert.tasks.base import Task
from clipbert.training.export import export
from clipbert.training.trainer import Trainer

RETRIEVAL = {"video_head": "direct", "cross_encoder": False, "epochs": 3}


def make_params(**retrieval: Any) -> Params:
    return Params.model_validate(
        {
            "model": {
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 48,
                "clips": 2,
            },
            "train": {"batch_size": 8, "lr": 0.001, "min_steps": 0, "freeze_vision": True, "label_smoothing": 0.1},
            "tasks": {"retrieval": RETRIEVAL | retrieval, "open_qa": {"epochs": 2}},
        }
    )


def train(
    project: Path, out: Path, params: Params, features: Path | None, task: str = "retrieval"
) -> tuple[Trainer, Log]:
    made, log = make_trainer(project, out, task, params), Log()
    if features is not None:
        made.features = open_features(features, made.model, made.processor, made.cache)
    finish(made, log)
    return made, log


def losses(log: Log) -> list[float]:
    return [values["train/loss"] for _, values in log.steps if "train/loss" in values]


@pytest.fixture(scope="module")
def cached(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Log, Path]:
    folder = tmp_path_factory.mktemp("cached")
    return (*train(tiny_project, folder / "run", make_params(), folder / "features"), folder)


@pytest.mark.slow
def test_the_losses_and_weights_are_those_from_pixels(
    tiny_project: Path, tmp_path: Path, cached: tuple[Trainer, Log, Path]
) -> None:
    expected, log = train(tiny_project, tmp_path, make_params(), None)
    made, found, _ = cached
    assert np.allclose(losses(found), losses(log), atol=1e-4)
    for (name, value), other in zip(made.model.named_parameters(), expected.model.parameters(), strict=True):
        assert torch.allclose(value, other, atol=1e-3), name
    row = made.state.validation[-1]
    assert row["retrieval/gallery"] == 8
    assert row["retrieval/r1"] == row["retrieval/dual_encoder_r1"]


@pytest.mark.slow
def test_evaluation_from_features_gives_the_scores_from_pixels(
    tiny_project: Path, cached: tuple[Trainer, Log, Path]
) -> None:
    made, _, folder = cached
    export(made.model, made.processor, folder / "model", "a card")
    task: Task = make_task("retrieval", make_params().tasks)
    artifacts = tiny_project / "artifacts"
    arguments = (folder / "model", task, artifacts / "manifest", artifacts / "frames", EvaluateParams(), FramesParams())
    from_pixels = evaluate_model(*arguments)
    from_features = evaluate_model(*arguments, features_dir=folder / "features")
    assert from_features.metrics == pytest.approx(from_pixels.metrics, abs=1e-3)
    scores = [np.stack(result.items["top_scores"]) for result in (from_features, from_pixels)]
    assert np.allclose(*scores, atol=1e-3)
    assert not np.array_equal(from_pixels.items["rank"], from_pixels.blank_items["rank"])


@pytest.mark.slow
def test_other_tasks_train_from_the_whole_feature_maps(tiny_project: Path, tmp_path: Path) -> None:
    made, log = train(tiny_project, tmp_path / "run", make_params(), tmp_path / "features", task="open_qa")
    expected, pixels = train(tiny_project, tmp_path / "other", make_params(), None, task="open_qa")
    assert np.allclose(losses(log), losses(pixels), atol=2e-2)
    assert made.features is not None
    assert made.features.media == FrameCache(tiny_project / "artifacts" / "frames").media
    assert expected.state.step == made.state.step


@pytest.mark.slow
@pytest.mark.parametrize("task", ["open_qa", "retrieval"])
def test_whole_feature_maps_train_and_validate_in_bf16(tiny_project: Path, tmp_path: Path, task: str) -> None:
    params = make_params(video_head="encoder", cross_encoder=True)
    params = params.model_copy(update={"train": params.train.model_copy(update={"precision": "bf16"})})
    made, log = train(tiny_project, tmp_path / "run", params, tmp_path / "features", task=task)
    assert made.step.precision.name == "bf16"
    assert np.isfinite(losses(log)).all()
    assert len(made.state.validation) > 0
    assert made.features is not None
    assert made.features.shape[0] == made.model.clipbert.vision.channels


@pytest.mark.slow
def test_a_killed_training_continues_from_features(
    tiny_project: Path, tmp_path: Path, cached: tuple[Trainer, Log, Path]
) -> None:
    params = make_params()
    params = params.model_copy(update={"train": params.train.model_copy(update={"checkpoint_every_steps": 1})})
    stopped = make_trainer(tiny_project, tmp_path, "retrieval", params)
    stopped.features = open_features(cached[2] / "features", stopped.model, stopped.processor, stopped.cache)
    with pytest.raises(KeyboardInterrupt):
        finish(stopped, Log(stop_at=6))
    stopped.checkpoints.finish()
    again = make_trainer(tiny_project, tmp_path, "retrieval", params)
    again.features = open_features(cached[2] / "features", again.model, again.processor, again.cache)
    finish(again, Log())
    for (name, value), other in zip(again.model.named_parameters(), cached[0].model.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_frames_become_squares_as_the_parameter_says(tiny_project: Path, tmp_path: Path) -> None:
    params = make_params()
    stretched = params.model_copy(update={"model": params.model.model_copy(update={"resize": "stretch"})})
    assert make_trainer(tiny_project, tmp_path, "retrieval", params).processor.resize == "pad"
    assert make_trainer(tiny_project, tmp_path, "retrieval", stretched).processor.resize == "stretch"
