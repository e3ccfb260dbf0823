"""Trainings in which something fails; docs/how-to/training.md lists each row with its test."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_trainings import Log, batches_of, finish, make_trainer, params
from torch import Tensor, nn

from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.model.encoder import ClipBertEncoder
from clipbert.tasks.batch import Batch
from clipbert.tasks.open_qa import OpenQA, OpenQAObjective
from clipbert.training.checkpoint import Checkpoints, rng_states, snapshot
from clipbert.training.data import Batches, Sample, TrainingSamples
from clipbert.training.step import BatchNormSnapshot
from clipbert.training.trainer import Trainer


class PoisonedObjective(OpenQAObjective):
    """NaN loss for batches that contain one video."""

    media: str
    times: float = 1e9

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().loss(model, batch)
        if self.media in batch.media and self.times > 0:
            self.times -= 1
            loss = loss * float("nan")
        return loss, parts


class Poisoned(OpenQA):
    """Task with a NaN loss for batches that contain one video."""

    objective_class = PoisonedObjective


def poisoned(project: Path, folder: Path, times: float = 1e9, **train: Any) -> Any:
    settings = params(**train)
    trainer = make_trainer(project, folder, "open_qa", settings)
    task = Poisoned(settings.tasks.open_qa)
    task.objective.media, task.objective.times = trainer.train_examples[0].media, times
    return replace(trainer, task=task)


def test_a_step_with_a_nan_loss_is_skipped_and_listed_with_its_videos(
    tiny_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = poisoned(tiny_project, tmp_path)
    state = finish(trainer, Log())
    assert state.step == 12
    assert state.bad_steps == 4  # once an epoch
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    kept = json.loads((tmp_path / "bad_steps.json").read_text())
    assert len(kept) == 4
    for row in kept.values():
        assert row["media"].count(trainer.task.objective.media) == 1
        assert len(row["media"]) == 8
        assert set(trainer.train_examples[0].ids) & set(row["texts"])
        assert row["loss"] == "nan"
    assert capsys.readouterr().err.count("is skipped because its loss or gradient is non-finite") == 4


def test_a_skipped_step_changes_neither_weights_nor_moments_nor_statistics(tiny_project: Path, tmp_path: Path) -> None:
    trainer = poisoned(tiny_project, tmp_path, times=0)
    trainer.resume()
    batches = batches_of(trainer)
    trainer.step.run(batches, 1, rng_states())
    before = snapshot(trainer.step.state_dict())
    trainer.task.objective.times = 1e9
    trainer.task.objective.media = trainer.train_examples[next(iter(batches.batches.sampler))[0][1]].media
    while True:
        output = trainer.step.run(batches, 1, rng_states())
        if trainer.task.objective.media in output.batches[0].media:
            break
        before = snapshot(trainer.step.state_dict())
    assert bool(output.skipped)
    after = trainer.step.state_dict()
    for name, value in before["model"].items():
        assert torch.equal(after["model"][name], value), name
    for number, values in before["optimizer"]["state"].items():
        for name, value in values.items():
            assert torch.equal(after["optimizer"]["state"][number][name], value), name


def test_too_many_bad_steps_end_it_with_its_state_saved_and_a_larger_limit_goes_on(
    tiny_project: Path, tmp_path: Path
) -> None:
    # Steps are counted at a checkpoint or a log line; a checkpoint waits while the previous one is being written.
    with pytest.raises(
        ClipBertError, match=r"[23] steps had a non-finite .* train.max_bad_steps = 1; the last one had texts"
    ) as refused:
        finish(poisoned(tiny_project, tmp_path, max_bad_steps=1), Log())
    listed = json.loads((tmp_path / "bad_steps.json").read_text())
    assert f": {len(listed)} steps had" in str(refused.value)
    trainer = poisoned(tiny_project, tmp_path, max_bad_steps=4)
    log = Log()
    state = finish(trainer, log)
    assert (state.step, state.bad_steps) == (12, 4)
    assert log.steps[0][0] > 3


class FatalObjective(PoisonedObjective):
    """Sends SIGTERM to its process at the first skipped step."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.media in batch.media:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(model, batch)


class Fatal(OpenQA):
    """Task whose training is stopped at its first skipped step."""

    objective_class = FatalObjective


def test_a_bad_step_right_before_a_stop_is_counted(tiny_project: Path, tmp_path: Path) -> None:
    trainer = poisoned(tiny_project, tmp_path, checkpoint_every_steps=99)
    task = Fatal(trainer.task.params)
    task.objective.media = trainer.task.objective.media
    with pytest.raises(SystemExit) as stopped:
        finish(replace(trainer, task=task), Log())
    assert stopped.value.code == 143
    checkpoints = Checkpoints(tmp_path, {})
    state, _, _ = checkpoints.read(checkpoints.newest() or 0)
    assert state.bad_steps == 1
    assert len(json.loads((tmp_path / "bad_steps.json").read_text())) == 1


def test_a_bad_step_that_the_disk_does_not_take_ends_no_training(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, value: Any) -> None:
        raise ClipBertError(f"{path}: no space left on the device")

    monkeypatch.setattr("clipbert.training.fault_tolerance.write_json", full)
    state = finish(poisoned(tiny_project, tmp_path), Log())
    assert (state.step, state.bad_steps) == (12, 4)
    assert "bad_steps.json: no space left on the device\nTraining continues" in capsys.readouterr().err


def test_the_statistics_of_live_batch_norms_are_put_back_where_a_flag_says_so() -> None:
    norm = nn.BatchNorm2d(2).train()
    kept = BatchNormSnapshot(nn.Sequential(norm, nn.BatchNorm2d(3).eval()))
    norm(torch.randn(4, 2, 3, 3))
    changed = norm.running_mean.clone()  # type: ignore[union-attr]
    kept.restore(torch.tensor(False))
    assert torch.equal(norm.running_mean, changed)  # type: ignore[arg-type]
    kept.restore(torch.tensor(True))
    assert norm.running_mean.tolist() == [0.0, 0.0]  # type: ignore[union-attr]
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_shard_ends_it_with_its_state_saved(tiny_project: Path, tmp_path: Path, num_workers: int) -> None:
    copy = tmp_path / "frames"
    shutil.copytree(tiny_project / "artifacts" / "frames", copy)
    trainer = make_trainer(
        tiny_project, tmp_path / "checkpoints", "retrieval", params(num_workers=num_workers, checkpoint_every_steps=99)
    )
    order = [index for batch in trainer.make_sampler() for _, index, _ in batch]
    victim = trainer.train_examples[order[2 * 8]].media  # of the third step
    damage(copy, victim)
    trainer = replace(trainer, cache=FrameCache(copy))
    with pytest.raises(ClipBertError, match=rf"{victim}.*--repair") as error:
        finish(trainer, Log())
    assert "Traceback" not in str(error.value)
    saved = Checkpoints(tmp_path / "checkpoints", {}).newest()
    assert saved == 2

    shutil.rmtree(copy)
    shutil.copytree(tiny_project / "artifacts" / "frames", copy)
    again = replace(make_trainer(tiny_project, tmp_path / "checkpoints", "retrieval", params()), cache=FrameCache(copy))
    assert finish(again, Log()).step == 12


def damage(folder: Path, media: str) -> None:
    """Change a byte of each of this video's frames in its shard."""
    index = pd.read_feather(folder / "index.arrow")
    row = index[index["media"] == media].iloc[0]
    data = bytearray((folder / row["shard"]).read_bytes())
    for offset, length in zip(row["frame_offsets"], row["frame_lengths"], strict=True):
        data[offset + length // 2] ^= 1
    (folder / row["shard"]).write_bytes(data)


def test_a_corrupt_shard_in_a_validation_ends_it_with_its_state_saved(tiny_project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "frames"
    shutil.copytree(tiny_project / "artifacts" / "frames", copy)
    trainer = make_trainer(tiny_project, tmp_path / "checkpoints", "retrieval", params(checkpoint_every_steps=99))
    damage(copy, trainer.val_examples[-1].media)
    with pytest.raises(ClipBertError, match=rf"{trainer.val_examples[-1].media}.*--repair"):
        finish(replace(trainer, cache=FrameCache(copy)), Log())
    assert Checkpoints(tmp_path / "checkpoints", {}).newest() == 3  # the end of the first epoch


def test_out_of_memory_in_a_validation_ends_it_with_its_state_saved(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    trainer = make_trainer(tiny_project, tmp_path, "retrieval", params(checkpoint_every_steps=99))
    monkeypatch.setattr(trainer.task.evaluator, "predict", full)
    with pytest.raises(ClipBertError, match=r"out of memory in a validation .* evaluate.batch_size to \d+ \(now"):
        finish(trainer, Log())
    assert Checkpoints(tmp_path, {}).newest() == 3


class Killer(Log):
    """Tracker that kills the data loader processes, all that were started after it, when it records metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.others = multiprocessing.active_children()

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        super().log_metrics(values, step)
        for child in multiprocessing.active_children():
            if child not in self.others:
                child.kill()


def test_a_dead_loader_process_is_replaced_and_nothing_is_changed(
    tiny_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = make_trainer(tiny_project, tmp_path / "straight", "retrieval", params())
    finish(straight, Log())
    struck = make_trainer(tiny_project, tmp_path / "struck", "retrieval", params(num_workers=1))
    assert finish(struck, Killer()).step == 12
    assert "a new one loads its batches again" in capsys.readouterr().err
    for (name, a), b in zip(straight.model.state_dict().items(), struck.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_pinning_thread_that_ends_is_replaced_like_the_process_that_ended_it(
    tiny_project: Path, tmp_path: Path
) -> None:
    """On a GPU a thread pins the batches; it fails when a killed loader process has passed on half a batch."""
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", params(num_workers=1))
    samples = TrainingSamples(trainer.cache, trainer.train_examples, trainer.task, trainer.model.config, 0)
    batches = Batches(samples, trainer.make_sampler(), trainer.processor, 1, torch.device("cpu"))

    def ended() -> Any:
        raise RuntimeError("Pin memory thread exited unexpectedly")
        yield

    batches._iterator = ended()
    assert [int(index) for _, index, _ in next(iter(trainer.make_sampler()))] == [
        [example.media for example in trainer.train_examples].index(name) for name in next(batches).media
    ]


class Suicidal(TrainingSamples):
    """Samples that kill the process that loads them."""

    def draw(self, epoch: int, index: int, own: bool = True) -> Sample:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(epoch, index, own)


def test_loader_processes_that_keep_dying_end_it_and_say_what_helps(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipbert.training.trainer.TrainingSamples", Suicidal)
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", params(num_workers=1))
    with pytest.raises(
        ClipBertError, match=r"train.num_workers = 1: data loader processes died 3 times in a row .* 0 to load"
    ):
        finish(trainer, Log())


def test_a_full_disk_is_said_and_the_training_goes_on(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = torch.save, 0

    def full_at_first(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*given)

    monkeypatch.setattr("clipbert.training.checkpoint.torch.save", full_at_first)
    assert finish(make_trainer(tiny_project, tmp_path, "retrieval", params()), Log()).step == 12
    assert "no space left on the device" in capsys.readouterr().err
    assert Checkpoints(tmp_path, {}).newest() == 12


class StoppedByValidation(Log):
    """Tracker that sends SIGTERM to its process at the first validation."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        super().log_metrics(values, step)
        if any(name.startswith("val/") for name in values):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_writes_again_what_a_full_disk_did_not_take(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.save, 0

    def full_at_first(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*given)

    monkeypatch.setattr("clipbert.training.checkpoint.torch.save", full_at_first)
    with pytest.raises(SystemExit):
        finish(
            make_trainer(tiny_project, tmp_path, "retrieval", params(checkpoint_every_steps=99)), StoppedByValidation()
        )
    again = Checkpoints(tmp_path, {})
    assert again.newest() == 3
    assert again.read(3)[0].best_step == 3


def little_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let more than `rows` rows in a training forward pass of the encoder run out of memory."""
    real = ClipBertEncoder.forward

    def checked(self: ClipBertEncoder, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(hidden_states) > rows and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(ClipBertEncoder, "forward", checked)


def test_out_of_memory_cuts_the_step_and_goes_on_with_the_same_gradient(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = finish(make_trainer(tiny_project, tmp_path / "straight", "retrieval", params()), Log())
    little_memory(monkeypatch, rows=7)  # 8 videos with 3 texts each are 24
    struck = finish(make_trainer(tiny_project, tmp_path / "struck", "retrieval", params()), Log())
    assert struck.microbatches == 4
    said = capsys.readouterr()
    assert said.err.count("out of memory; from now on each step is made in") == 2
    assert "retrieval: a step in 4 parts. The vision half stays in one piece" in said.out
    assert struck.step == straight.step == 12
    # Adam at this rate makes much of rounding: the same to three digits after twelve steps.
    assert struck.history[-1]["loss"] == pytest.approx(straight.history[-1]["loss"], rel=1e-2)
    assert Checkpoints(tmp_path / "struck", {}).read(12)[0].microbatches == 4


def test_out_of_memory_without_micro_batches_says_what_halves_the_need_with_its_state_saved(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = params(auto_microbatch=False)
    with pytest.raises(KeyboardInterrupt):
        finish(make_trainer(tiny_project, tmp_path, "retrieval", settings), Log(stop_at=3))
    little_memory(monkeypatch, rows=7)
    with pytest.raises(ClipBertError) as error:
        finish(make_trainer(tiny_project, tmp_path, "retrieval", settings), Log())
    message = str(error.value)
    assert "train retrieval: out of memory in a step of 8 videos (CUDA out of memory" in message
    assert "train.auto_microbatch to true (now false)" in message
    assert "train.batch_size to 4 (now 8) with train.gradient_accumulation_steps 2 (now 1)" in message
    assert Checkpoints(tmp_path, {}).newest() in (2, 3)


def test_not_even_one_row_that_fits_ends_it(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_memory(monkeypatch, rows=0)
    with pytest.raises(ClipBertError, match=r"out of memory in a step of 8 videos in 8 parts .*\n.*image_size"):
        finish(make_trainer(tiny_project, tmp_path, "retrieval", params()), Log())


def test_no_room_for_the_optimiser_says_what_helps(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: torch.optim.AdamW) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(ClipBertError, match=r"out of memory in the optimizer step .*\n.*train.batch_size to 4"):
        finish(make_trainer(tiny_project, tmp_path, "retrieval", params()), Log())


def test_a_best_epoch_validated_after_a_resume_is_saved_at_the_same_step(tiny_project: Path, tmp_path: Path) -> None:
    """A stop within a validation saves the step without the validation, which the resumed training makes up for."""
    straight = make_trainer(tiny_project, tmp_path / "straight", "retrieval", params(checkpoint_every_steps=99))
    expected = finish(straight, Log())
    stopped = make_trainer(tiny_project, tmp_path / "stopped", "retrieval", params(checkpoint_every_steps=99))
    stopped.task.evaluator.validation_groups = interrupted(stopped)  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as end:
        finish(stopped, Log())
    assert end.value.code == 143
    checkpoints = Checkpoints(tmp_path / "stopped", {})
    assert checkpoints.newest() == 3
    assert checkpoints.read(3)[0].best_step == 0

    resumed = make_trainer(tiny_project, tmp_path / "stopped", "retrieval", params(checkpoint_every_steps=99))
    resumed.resume()
    with pytest.raises(KeyboardInterrupt):
        resumed.train(Log(stop_at=6))
    resumed.checkpoints.finish()
    assert checkpoints.newest() == 3
    assert checkpoints.read(3)[0].best_step == 3
    state = finish(make_trainer(tiny_project, tmp_path / "stopped", "retrieval", params()), Log())
    assert state.validation == expected.validation


def interrupted(trainer: Trainer) -> Any:
    """Return the evaluator's method `validation_groups`, which sends SIGTERM to this process first."""
    real = trainer.task.evaluator.validation_groups

    def validation(examples: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(examples)

    return validation
