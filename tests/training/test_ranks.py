"""Trainings of several processes equal those of one, also after a process is killed."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from trainings import (
    STEPS,
    finished,
    kill_group,
    same,
    seen_steps,
    settings,
    started,
    started_under_agent,
    steps_of,
    weights_of,
)

from clipbert.errors import ClipBertError
from clipbert.training.data import DistributedBatchSampler


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_the_processes_share_each_batch_without_overlap_or_loss(world: int) -> None:
    whole = [[(epoch, index) for epoch, index, _ in batch] for batch in DistributedBatchSampler(21, 8, 3, 0)]
    shares = []
    for rank in range(world):
        order = DistributedBatchSampler(21, 8, 3, 0, rank=rank, world=world)
        shares.append([[(epoch, index) for epoch, index, own in batch if own] for batch in order])
        assert all(len(some) == order.videos_per_rank[rank] for some in shares[-1])
        assert max(order.videos_per_rank) - min(order.videos_per_rank) <= 1
    assert [[key for part in parts for key in part] for parts in zip(*shares, strict=True)] == whole


def test_more_processes_than_videos_are_refused() -> None:
    with pytest.raises(ClipBertError, match=r"train.batch_size: a batch of 8 videos cannot be shared by 9 processes"):
        DistributedBatchSampler(21, 8, 3, 0, world=9)


@pytest.mark.parametrize("task", ["retrieval", "open_qa"])
def test_two_processes_compute_what_one_does(tiny_project: Path, tmp_path: Path, task: str) -> None:
    """In float64: rounding is amplified by Adam where a gradient is nothing but rounding, as a key's bias has it."""
    asked = settings(task, gradient_accumulation_steps=2, batch_size=5) | {"double": True}
    asked["params"]["tasks"][task]["epochs"] = 10
    alone, together = tmp_path / "alone", tmp_path / "together"
    processes = [started(tiny_project, alone, asked), started(tiny_project, together, asked, processes=2)]
    assert all("train" in finished(process) for process in processes)

    one, first, second = steps_of(alone), steps_of(together, 0), steps_of(together, 1)
    assert sorted(one) == sorted(first) == sorted(second) == list(range(20))
    for step, row in one.items():
        assert sorted(first[step]["media"] + second[step]["media"]) == sorted(row["media"])
        assert (first[step]["loss"] + second[step]["loss"]) / 2 == pytest.approx(row["loss"], rel=1e-6)
    other = weights_of(together)
    for name, weights in weights_of(alone).items():
        torch.testing.assert_close(other[name], weights, rtol=1e-6, atol=1e-9, msg=name)


def test_a_killed_rank_is_restarted_with_the_others_and_nothing_is_changed(
    tiny_project: Path, tmp_path: Path, undisturbed_pair: Path
) -> None:
    process = started_under_agent(tiny_project, tmp_path, settings(), processes=2, restarts=2)
    seen_steps(tmp_path, 4)
    os.kill(int((tmp_path / "0.pid").read_text()), signal.SIGKILL)
    assert "Resuming retrieval at step" in finished(process)
    for each in (0, 1):
        assert steps_of(tmp_path, each) == steps_of(undisturbed_pair, each)
    assert same(weights_of(tmp_path), weights_of(undisturbed_pair))


def test_no_process_reports_a_saved_state_that_the_first_one_could_not_write(
    tiny_project: Path, tmp_path: Path
) -> None:
    asked = settings(checkpoint_every_steps=1000, budget="4000 steps") | {"full": True}
    process = started(tiny_project, tmp_path, asked, processes=2)
    seen_steps(tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert "no space left on the device" in said
    assert "Process 1 ends because another process died" in said


def test_out_of_memory_starts_all_again_in_smaller_parts(tiny_project: Path, tmp_path: Path) -> None:
    process = started_under_agent(tiny_project, tmp_path, settings() | {"rows": 6}, processes=2, restarts=2)
    said = finished(process)  # 4 videos a process with 3 texts each are 12 rows
    assert "out of memory; from now on each step is made in 2 parts" in said
    assert "retrieval: a step in 2 parts" in said
    assert "Traceback" not in said
    assert sorted(steps_of(tmp_path, 0)) == sorted(steps_of(tmp_path, 1)) == list(range(STEPS))


def test_all_killed_with_loader_processes_resume_to_the_bit_and_another_number_of_processes_goes_on(
    tiny_project: Path, tmp_path: Path, undisturbed_pair: Path
) -> None:
    asked = settings(num_workers=2, keep_checkpoints=100)
    process = started(tiny_project, tmp_path, asked, processes=2)
    seen_steps(tmp_path, 5)
    kill_group(process)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "checkpoints", copy / "checkpoints")

    said = finished(started(tiny_project, tmp_path, asked, processes=2))
    assert "Resuming retrieval at step" in said
    assert steps_of(tmp_path) == steps_of(undisturbed_pair)
    assert same(weights_of(tmp_path), weights_of(undisturbed_pair))

    said = finished(started(tiny_project, copy, asked))
    assert "was made with processes 2: the training resumes, but its result will not be" in said
    alone, pair = steps_of(copy), [steps_of(undisturbed_pair, rank) for rank in (0, 1)]
    assert max(alone) == STEPS - 1
    for step, row in alone.items():
        assert row["media"] == pair[0][step]["media"] + pair[1][step]["media"]
        assert row["loss"] == pytest.approx((pair[0][step]["loss"] + pair[1][step]["loss"]) / 2, rel=0.05)
