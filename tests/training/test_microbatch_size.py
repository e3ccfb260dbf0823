"""`train.microbatch_size`: a training in parts is the training of whole batches."""

from pathlib import Path

import pytest
from small_trainings import Log, finish, make_trainer, params

from clipbert.config.schema import Params
from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError


def frozen(**train: object) -> Params:
    return params(freeze_vision=True, **train)


def test_parts_train_as_the_whole_batch_does_and_a_resumed_training_keeps_them(
    tiny_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = finish(make_trainer(tiny_project, tmp_path / "whole", "retrieval", frozen()), Log())
    with pytest.raises(KeyboardInterrupt):
        finish(make_trainer(tiny_project, tmp_path / "parts", "retrieval", frozen(microbatch_size=3)), Log(stop_at=3))
    assert "retrieval: a step in 3 parts." in capsys.readouterr().out
    trainer = make_trainer(tiny_project, tmp_path / "parts", "retrieval", frozen(microbatch_size=3))
    parts = finish(trainer, Log())
    assert parts.microbatches == trainer.model.clipbert.microbatches == 3
    assert parts.step == whole.step
    # Adam at this rate makes much of rounding: the same to three digits after twelve steps.
    assert parts.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-2)


def test_each_process_has_parts_of_its_own_videos(tiny_project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", frozen(microbatch_size=2))
    trainer.resume()
    assert trainer.step.microbatches == 4
    trainer.step.context = DistributedContext(rank=0, world=2)
    assert trainer.step._wanted_microbatches() == 2


def test_trained_batch_norms_are_refused(tiny_project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", params(microbatch_size=2))
    with pytest.raises(ClipBertError, match=r"train.microbatch_size is 2, but the batch norms .* Set train.freeze_vis"):
        trainer.resume()


def test_a_part_larger_than_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="microbatch_size is 9, more than batch_size, 8: expected at most the whole"):
        params(microbatch_size=9)
