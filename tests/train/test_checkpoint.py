"""Checkpoints: what comes back, and what is not trusted."""

from pathlib import Path

import pytest
import torch
from torch import nn

from clipbert.train.checkpoint import Checkpoints, Progress, differences


def trained() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def fresh() -> tuple[nn.Module, torch.optim.AdamW]:
    model = nn.Linear(3, 2)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizer = trained()
    progress = Progress(step=7, best=0.5, best_epoch=1, seconds=3.0, run_id="r", history=[{"loss": 1.0}])
    Checkpoints(tmp_path, {"lr": 0.1}).save(model, optimizer, progress)
    expected = torch.rand(3)

    other, its_optimizer = fresh()
    assert Checkpoints(tmp_path, {"lr": 0.1}).load(other, its_optimizer) == progress
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    moments = [state["exp_avg"] for state in its_optimizer.state_dict()["state"].values()]
    assert torch.equal(moments[0], optimizer.state_dict()["state"][0]["exp_avg"])
    assert moments[0].dtype == torch.float32
    assert torch.equal(torch.rand(3), expected)


def test_nothing_there_is_a_fresh_start(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, {}).load(*fresh()) == Progress()


def test_other_parameters_or_data_start_over_and_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Checkpoints(tmp_path, {"train.lr": 0.1, "videos.parquet": "a", "seed": 0}).save(*trained(), Progress(step=7))
    checkpoints = Checkpoints(tmp_path, {"train.lr": 0.2, "videos.parquet": "b", "seed": 0})
    assert checkpoints.load(*fresh()).step == 0
    assert "was made with other train.lr, videos.parquet" in capsys.readouterr().out
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_is_said_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Checkpoints(tmp_path, {}).save(*trained(), Progress(step=7))
    path = tmp_path / "last" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert Checkpoints(tmp_path, {}).load(*fresh()).step == 0
    assert "Starting over" in capsys.readouterr().out


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {}).save(*trained(), Progress(step=7))
    (tmp_path / "last").rename(tmp_path / ".last.abc.old")
    (tmp_path / ".last.def.tmp").mkdir()
    assert Checkpoints(tmp_path, {}).load(*fresh()).step == 7
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_the_best_weights_come_back(tmp_path: Path) -> None:
    model, _ = trained()
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_best(model)
    other, _ = fresh()
    checkpoints.load_best(other)
    assert torch.equal(other.weight, model.weight)  # type: ignore[arg-type]


def test_differences_are_sorted_names() -> None:
    assert differences({"b": 1, "a": 1, "c": 1}, {"b": 2, "a": 1, "d": 1}) == ["b", "c", "d"]
