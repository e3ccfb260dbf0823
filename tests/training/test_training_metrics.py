"""Metrics of a training that DVC compares experiments by: of the best epoch, not of the last one."""

from pathlib import Path

import pytest
from small_trainings import Log, finish, make_trainer, params

from clipbert.training.training_metrics import training_metrics


def test_metrics_are_those_of_the_best_epoch_and_the_cost(tiny_project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", params())
    state = finish(trainer, Log())
    best, *others = sorted(state.validation, key=lambda row: -row["retrieval/mrr"])
    metrics = training_metrics(trainer)
    assert next(iter(metrics)) == "retrieval_val/mrr"
    assert metrics["retrieval_val/mrr"] == pytest.approx(best["retrieval/mrr"], abs=1e-4)
    assert metrics["retrieval_val/r1"] == pytest.approx(best["retrieval/r1"], abs=1e-4)
    assert all(row["retrieval/mrr"] <= best["retrieval/mrr"] for row in others)
    assert metrics["retrieval_val/epoch"] == state.best_epoch
    assert metrics["retrieval_cost/steps"] == state.step == 12
    assert metrics["retrieval_cost/parameters"] == sum(weights.numel() for weights in trainer.model.parameters())
    assert metrics["retrieval_cost/tflop"] == pytest.approx(trainer.step.monitor.flops / 1e12, rel=1e-3)
    assert metrics["retrieval_cost/seconds"] > 0


def test_a_resumed_training_counts_all_of_its_operations(tiny_project: Path, tmp_path: Path) -> None:
    whole = make_trainer(tiny_project, tmp_path / "whole", "retrieval", params())
    finish(whole, Log())
    first = make_trainer(tiny_project, tmp_path / "parts", "retrieval", params())
    with pytest.raises(KeyboardInterrupt):
        finish(first, Log(stop_at=10))
    second = make_trainer(tiny_project, tmp_path / "parts", "retrieval", params())
    finish(second, Log())
    # the operations of the steps between the last checkpoint and the interruption are part of the second run
    assert second.state.flops == pytest.approx(whole.state.flops, rel=0.05)
