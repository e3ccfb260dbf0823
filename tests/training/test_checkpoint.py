"""Checkpoints: content, detection of damage, and an intact one at any time."""

import errno
import gc
import os
import shutil
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clipbert.errors import ClipBertError
from clipbert.training import checkpoint
from clipbert.training.checkpoint import (
    Checkpoints,
    TrainState,
    differences,
    restore_rng_states,
    rng_states,
    snapshot,
)


def trained() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def written(folder: Path, *steps: int, keep: int = 2, best: int = 0, **settings: Any) -> Checkpoints:
    """Checkpoints of these steps, the weights filled with the step; `best` is the step of the best epoch."""
    checkpoints = Checkpoints(folder, settings.get("fingerprint", {}), keep, settings.get("environment"))
    for step in steps:
        weights = {"weight": torch.full((3,), float(step))}
        progress = TrainState(step=step, best_step=best if step >= best else 0)
        checkpoints.save(progress, {"model": weights}, [rng_states()], weights if step == best else None)
    checkpoints.finish()
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizer = trained()
    progress = TrainState(step=7, best=0.5, best_epoch=1, seconds=3.0, run_id="r", history=[{"loss": 1.0}])
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    Checkpoints(tmp_path, {"lr": 0.1}).save(progress, parts, [rng_states()], wait=True)
    expected = torch.rand(3)

    checkpoints = Checkpoints(tmp_path, {"lr": 0.1})
    assert checkpoints.newest() == 7
    back, states, rng = checkpoints.read(7)
    progress.saving_seconds = back.saving_seconds
    assert back == progress
    assert all(torch.equal(states["model"][name], value) for name, value in model.state_dict().items())
    moment = states["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moment, optimizer.state_dict()["state"][0]["exp_avg"])
    assert moment.dtype == torch.float32
    restore_rng_states(rng[0])
    assert torch.equal(torch.rand(3), expected)


def test_nothing_there_is_a_fresh_start(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", {}).newest() is None


def test_what_changes_while_it_is_written_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write, real = threading.Event(), torch.save
    monkeypatch.setattr(torch, "save", lambda *given: (may_write.wait(20), real(*given)))
    weights, checkpoints = torch.ones(3), Checkpoints(tmp_path, {})
    progress = TrainState(step=1, history=[{"loss": 1.0}])
    checkpoints.save(progress, {"model": {"weight": weights}}, [])
    assert checkpoints.busy
    weights.zero_()
    progress.history.append({"loss": 2.0})
    may_write.set()
    checkpoints.finish()
    assert not checkpoints.busy
    back, states, _ = checkpoints.read(1)
    assert states["model"]["weight"].tolist() == [1.0, 1.0, 1.0]
    assert back.history == [{"loss": 1.0}]


def test_other_parameters_or_data_start_over_and_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, 7, best=7, fingerprint={"train.lr": 0.1, "videos.parquet": "a", "seed": 0})
    checkpoints = Checkpoints(tmp_path, {"train.lr": 0.2, "videos.parquet": "b", "seed": 0})
    assert checkpoints.newest() is None
    assert "was made with other train.lr, videos.parquet" in capsys.readouterr().out
    assert names(tmp_path) == []


def test_other_circumstances_are_said_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, 7, environment={"processes": 2, "device": "cpu"})
    assert Checkpoints(tmp_path, {}, environment={"processes": 4, "device": "cpu"}).newest() == 7
    assert "made with processes 2: the training resumes, but its result will not be" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["state.json", "training.pt", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    written(tmp_path, 6, 7)
    path = tmp_path / "step-00000007" / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    assert Checkpoints(tmp_path, {}).newest() == 6
    assert "step-00000007 cannot be used (" in capsys.readouterr().err
    assert names(tmp_path) == ["step-00000006"]


def test_one_whose_best_weights_are_damaged_is_not_used(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 5)
    weights = {"weight": torch.ones(3)}
    checkpoints.save(TrainState(step=6, best_step=6), {"model": weights}, [], weights, wait=True)
    path = tmp_path / "best-00000006" / "weights.pt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ClipBertError, match=r"best-00000006: the weights .* cannot be read \(weights.pt has other"):
        checkpoints.load_best(6)
    assert Checkpoints(tmp_path, {}).newest() == 5


def test_the_last_few_are_kept_and_the_best_that_they_name(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 1, 2, 3, 4, 5, best=2)
    assert names(tmp_path) == ["best-00000002", "step-00000004", "step-00000005"]
    assert checkpoints.load_best(2)["weight"].tolist() == [2.0, 2.0, 2.0]
    weights = {"weight": torch.ones(3)}
    for step in (6, 7):
        checkpoints.save(TrainState(step=step, best_step=6), {"model": weights}, [], weights if step == 6 else None)
    checkpoints.finish()
    assert names(tmp_path) == ["best-00000006", "step-00000006", "step-00000007"]
    checkpoints.clear()
    assert names(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = written(tmp_path, 6)

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.torch, "save", full)
        checkpoints.save(TrainState(step=7), {}, [])
        checkpoints.finish()
        said = capsys.readouterr().err
        assert "step-00000007: no space left on the device" in said
        assert "Training continues; this checkpoint was not written." in said
        with pytest.raises(ClipBertError, match="no space left"):
            checkpoints.save(TrainState(step=7), {}, [], wait=True)
    assert names(tmp_path) == ["step-00000006"]
    checkpoints.save(TrainState(step=8), {}, [])
    checkpoints.finish()
    assert Checkpoints(tmp_path, {}).newest() == 8


def test_best_weights_that_the_disk_did_not_take_are_written_with_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, weights = written(tmp_path, 5), {"weight": torch.full((3,), 6.0)}

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.torch, "save", full)
        checkpoints.save(TrainState(step=6, best_step=6), {"model": weights}, [], weights)
        assert checkpoints.finish() is False
    weights["weight"].zero_()
    assert checkpoints.load_best(6)["weight"].tolist() == [6.0, 6.0, 6.0]
    checkpoints.save(TrainState(step=7, best_step=6), {"model": weights}, [])
    assert checkpoints.finish() is True
    again = Checkpoints(tmp_path, {})
    assert again.newest() == 7
    assert again.load_best(6)["weight"].tolist() == [6.0, 6.0, 6.0]


def test_a_damaged_one_among_those_kept_does_not_keep_the_next_from_being_written(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 1, 2, keep=3, best=2)
    (tmp_path / "step-00000001" / "state.json").write_text("{")
    checkpoints.save(TrainState(step=3, best_step=2), {}, [], wait=True)
    assert names(tmp_path) == ["best-00000002", "step-00000001", "step-00000002", "step-00000003"]


def die_at(call: str, number: int) -> None:
    """This process is killed when it calls os.`call` for the time after `number` times."""
    count, real = 0, getattr(os, call)

    def counted(*given: Any) -> Any:
        nonlocal count
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return real(*given)

    setattr(os, call, counted)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_at_any_file_operation_of_a_save_leaves_a_whole_one(tmp_path: Path, call: str) -> None:
    """The child is killed at the n-th fsync or rename of its second and third save, for every n there is."""
    survived = 0
    for deadly in range(100):
        folder = tmp_path / str(deadly)
        written(folder, 1, best=1)
        child = os.fork()
        if child == 0:
            die_at(call, deadly)
            written(folder, 2, 3, best=2)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        checkpoints = Checkpoints(folder, {})
        newest = checkpoints.newest()
        assert newest in (1, 2, 3)
        progress, states, _ = checkpoints.read(newest)
        assert states["model"]["weight"].tolist() == [float(newest)] * 3
        assert checkpoints.load_best(progress.best_step)["weight"].tolist() == [float(progress.best_step)] * 3
        assert not [name for name in names(folder) if name.startswith(".")]
        shutil.rmtree(folder)
        if status == 0:
            break
        survived += 1
    assert survived >= 3
    assert newest == 3


def test_a_snapshot_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        copied = snapshot({"model": {"weight": torch.ones(4)}, "rng": [torch.zeros(2)]})
        freed = weakref.ref(copied["model"]["weight"])
        del copied
        assert freed() is None
    finally:
        gc.enable()


def test_a_snapshot_copies_a_shared_tensor_once(tmp_path: Path) -> None:
    shared = torch.ones(2)
    copied = snapshot({"a": shared, "b": [shared.view(2), 3], "c": torch.empty(0)})
    assert copied["a"] is copied["b"][0]
    assert copied["a"].data_ptr() != shared.data_ptr()
    assert copied["b"][1] == 3


def test_parts_that_a_process_asked_for_outlive_it(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 1)
    checkpoints.save_microbatches(4)
    again = Checkpoints(tmp_path, {})
    assert again.read(1)[0].microbatches == 4
    again.clear()
    assert again.microbatches() == 1


def test_differences_are_sorted_names() -> None:
    assert differences({"b": 1, "a": 1, "c": 1}, {"b": 2, "a": 1, "d": 1}) == ["b", "c", "d"]
