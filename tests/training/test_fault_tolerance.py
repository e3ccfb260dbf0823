"""What a training does when something fails under it; docs/how-to/training.md lists each row with its test."""

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
from test_trainer import Log, finish, make_run, params
from torch import Tensor, nn

from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertModel
from clipbert.tasks.base import Batch
from clipbert.tasks.open_qa import OpenQA
from clipbert.training.checkpoint import Checkpoints
from clipbert.training.data import Batches, Sample, TrainingSamples
from clipbert.training.step import BatchNormSnapshot


class Poisoned(OpenQA):
    """A task whose loss is no number wherever one video is in the batch."""

    media: str
    times: float = 1e9

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().loss(model, batch)
        if self.media in batch.media and self.times > 0:
            self.times -= 1
            loss = loss * float("nan")
        return loss, parts


def poisoned(project: Path, folder: Path, times: float = 1e9, **train: Any) -> Any:
    settings = params(**train)
    run = make_run(project, folder, "open_qa", settings)
    task = Poisoned(settings.tasks.open_qa)
    task.media, task.times = run.train[0].media, times
    return replace(run, task=task)


def test_a_loss_that_is_no_number_leaves_the_step_out_and_says_of_what(
    tiny_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = poisoned(tiny_project, tmp_path)
    state = finish(run, Log())
    assert state.step == 12
    assert state.bad_steps == 4  # once an epoch
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())
    kept = json.loads((tmp_path / "bad_steps.json").read_text())
    assert len(kept) == 4
    for row in kept.values():
        assert row["media"].count(run.task.media) == 1
        assert len(row["media"]) == 8
        assert set(run.train[0].ids) & set(row["texts"])
        assert row["loss"] == "nan"
    assert capsys.readouterr().err.count("is left out, its loss or gradient is no finite number") == 4


def test_a_step_left_out_changes_neither_weights_nor_moments_nor_statistics(tiny_project: Path, tmp_path: Path) -> None:
    from test_trainer import feed_of

    from clipbert.training.checkpoint import generator_states, snapshot
    from clipbert.training.trainer import start

    run = poisoned(tiny_project, tmp_path, times=0)
    state, stepper = start(run)
    feed = feed_of(run, stepper)
    stepper.step(feed, 1, run.checkpoints, state, generator_states())
    before = snapshot(stepper.parts())
    run.task.times = 1e9
    run.task.media = run.train[next(iter(feed.batches.order))[0][1]].media
    while True:
        stepped = stepper.step(feed, 1, run.checkpoints, state, generator_states())
        if run.task.media in stepped.batches[0].media:
            break
        before = snapshot(stepper.parts())
    assert bool(stepped.bad)
    after = stepper.parts()
    for name, value in before["model"].items():
        assert torch.equal(after["model"][name], value), name
    for number, values in before["optimizer"]["state"].items():
        for name, value in values.items():
            assert torch.equal(after["optimizer"]["state"][number][name], value), name


def test_too_many_bad_steps_end_it_with_its_state_saved_and_a_larger_limit_goes_on(
    tiny_project: Path, tmp_path: Path
) -> None:
    with pytest.raises(ClipBertError, match=r"2 steps had a loss .* train.max_bad_steps = 1; the last one had texts"):
        finish(poisoned(tiny_project, tmp_path, max_bad_steps=1), Log())
    run = poisoned(tiny_project, tmp_path, max_bad_steps=4)
    log = Log()
    state = finish(run, log)
    assert (state.step, state.bad_steps) == (12, 4)
    assert log.steps[0][0] > 3


class Fatal(Poisoned):
    """Whoever has started the training stops it at the first bad step."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.media in batch.media:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(model, batch)


def test_a_bad_step_right_before_a_stop_is_counted(tiny_project: Path, tmp_path: Path) -> None:
    run = poisoned(tiny_project, tmp_path, checkpoint_every_steps=99)
    task = Fatal(run.task.params)
    task.media = run.task.media
    with pytest.raises(SystemExit) as stopped:
        finish(replace(run, task=task), Log())
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
    assert "bad_steps.json: no space left on the device\nTraining goes on" in capsys.readouterr().err


def test_the_statistics_of_live_batch_norms_are_put_back_where_a_flag_says_so() -> None:
    norm = nn.BatchNorm2d(2).train()
    kept = BatchNormSnapshot(nn.Sequential(norm, nn.BatchNorm2d(3).eval()))
    norm(torch.randn(4, 2, 3, 3))
    changed = norm.running_mean.clone()  # type: ignore[union-attr]
    kept.put_back(torch.tensor(False))
    assert torch.equal(norm.running_mean, changed)  # type: ignore[arg-type]
    kept.put_back(torch.tensor(True))
    assert norm.running_mean.tolist() == [0.0, 0.0]  # type: ignore[union-attr]
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_shard_ends_it_with_its_state_saved(tiny_project: Path, tmp_path: Path, num_workers: int) -> None:
    copy = tmp_path / "frames"
    shutil.copytree(tiny_project / "artifacts" / "frames", copy)
    run = make_run(
        tiny_project, tmp_path / "checkpoints", "retrieval", params(num_workers=num_workers, checkpoint_every_steps=99)
    )
    order = [index for batch in run.order() for _, index, _ in batch]
    victim = run.train[order[2 * 8]].media  # of the third step
    damage(copy, victim)
    run = replace(run, cache=FrameCache(copy))
    with pytest.raises(ClipBertError, match=rf"{victim}.*--repair") as error:
        finish(run, Log())
    assert "Traceback" not in str(error.value)
    saved = Checkpoints(tmp_path / "checkpoints", {}).newest()
    assert saved == 2

    shutil.rmtree(copy)
    shutil.copytree(tiny_project / "artifacts" / "frames", copy)
    again = replace(make_run(tiny_project, tmp_path / "checkpoints", "retrieval", params()), cache=FrameCache(copy))
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
    run = make_run(tiny_project, tmp_path / "checkpoints", "retrieval", params(checkpoint_every_steps=99))
    damage(copy, run.val[-1].media)
    with pytest.raises(ClipBertError, match=rf"{run.val[-1].media}.*--repair"):
        finish(replace(run, cache=FrameCache(copy)), Log())
    assert Checkpoints(tmp_path / "checkpoints", {}).newest() == 3  # the end of the first epoch


def test_out_of_memory_in_a_validation_ends_it_with_its_state_saved(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    run = make_run(tiny_project, tmp_path, "retrieval", params(checkpoint_every_steps=99))
    monkeypatch.setattr(type(run.task), "predict", full)
    with pytest.raises(ClipBertError, match=r"out of memory in a validation .* evaluate.batch_size to \d+ \(now"):
        finish(run, Log())
    assert Checkpoints(tmp_path, {}).newest() == 3


class Killer(Log):
    """Kills the loader processes when an epoch has ended."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        super().log_metrics(values, step)
        for child in multiprocessing.active_children():
            child.kill()


def test_a_dead_loader_process_is_replaced_and_nothing_is_changed(
    tiny_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = make_run(tiny_project, tmp_path / "straight", "retrieval", params())
    finish(straight, Log())
    struck = make_run(tiny_project, tmp_path / "struck", "retrieval", params(num_workers=1))
    assert finish(struck, Killer()).step == 12
    assert "its batches are made again by a new one" in capsys.readouterr().err
    for (name, a), b in zip(straight.model.state_dict().items(), struck.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_pinning_thread_that_ends_is_replaced_like_the_process_that_ended_it(
    tiny_project: Path, tmp_path: Path
) -> None:
    """The thread is a GPU's; it ends with the half of a batch that a killed loader process has handed over."""
    run = make_run(tiny_project, tmp_path, "retrieval", params(num_workers=1))
    samples = TrainingSamples(run.cache, run.train, run.task, run.model.config, 0)
    batches = Batches(samples, run.order(), run.processor, 1, torch.device("cpu"))

    def ended() -> Any:
        raise RuntimeError("Pin memory thread exited unexpectedly")
        yield

    batches._made = ended()
    assert [int(index) for _, index, _ in next(iter(run.order()))] == [
        [example.media for example in run.train].index(name) for name in next(batches).media
    ]


class Suicidal(TrainingSamples):
    """Examples whose loading kills the process that loads."""

    def draw(self, epoch: int, index: int, own: bool = True) -> Sample:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(epoch, index, own)


def test_loader_processes_that_keep_dying_end_it_and_say_what_helps(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipbert.training.trainer.TrainingSamples", Suicidal)
    run = make_run(tiny_project, tmp_path, "retrieval", params(num_workers=1))
    with pytest.raises(
        ClipBertError, match=r"train.num_workers = 1: loader processes died 3 times in a row .* 0 to load"
    ):
        finish(run, Log())


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
    assert finish(make_run(tiny_project, tmp_path, "retrieval", params()), Log()).step == 12
    assert "no space left on the device" in capsys.readouterr().err
    assert Checkpoints(tmp_path, {}).newest() == 12


class StoppedByValidation(Log):
    """Whoever has started the training stops it at the first validation."""

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
        finish(make_run(tiny_project, tmp_path, "retrieval", params(checkpoint_every_steps=99)), StoppedByValidation())
    again = Checkpoints(tmp_path, {})
    assert again.newest() == 3
    assert again.read(3)[0].best_step == 3


def little_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """No more than so many rows fit through the encoder at once while it learns."""
    real = ClipBertModel._encoder_states

    def checked(self: ClipBertModel, embeds: Tensor, mask: Tensor | None) -> Tensor:
        if len(embeds) > rows and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(self, embeds, mask)

    monkeypatch.setattr(ClipBertModel, "_encoder_states", checked)


def test_out_of_memory_cuts_the_step_and_goes_on_with_the_same_gradient(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = finish(make_run(tiny_project, tmp_path / "straight", "retrieval", params()), Log())
    little_memory(monkeypatch, rows=7)  # 8 videos with 3 texts each are 24
    struck = finish(make_run(tiny_project, tmp_path / "struck", "retrieval", params()), Log())
    assert struck.microbatches == 4
    said = capsys.readouterr()
    assert said.err.count("out of memory; the step is made in") == 2
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
        finish(make_run(tiny_project, tmp_path, "retrieval", settings), Log(stop_at=3))
    little_memory(monkeypatch, rows=7)
    with pytest.raises(ClipBertError) as error:
        finish(make_run(tiny_project, tmp_path, "retrieval", settings), Log())
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
        finish(make_run(tiny_project, tmp_path, "retrieval", params()), Log())


def test_no_room_for_the_optimiser_says_what_helps(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: torch.optim.AdamW) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(ClipBertError, match=r"out of memory in the optimiser's step .*\n.*train.batch_size to 4"):
        finish(make_run(tiny_project, tmp_path, "retrieval", params()), Log())
