"""A training that is killed at random moments ends with the same weights as an undisturbed one."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import training_process
from trainings import finished, kill_group, same, seen_steps, settings, started, steps_of, weights_of


@pytest.mark.parametrize(("num_workers", "most"), [(0, 3), (2, 1)])
def test_kills_at_random_moments_change_nothing(
    tiny_project: Path, tmp_path: Path, undisturbed: Path, num_workers: int, most: int
) -> None:
    dice, kills = random.Random(num_workers), 0
    while not (tmp_path / "weights.pt").exists():
        process = started(tiny_project, tmp_path, settings(num_workers=num_workers))
        if kills == most:
            assert "Resuming retrieval at step" in finished(process)
            break
        file = tmp_path / "0.jsonl"
        seen_steps(tmp_path, (file.read_text().count("\n") if file.exists() else 0) + 3)
        time.sleep(dice.random() * 0.1)  # a step with its checkpoint takes about as long
        kill_group(process)
        kills += 1
    assert kills == most
    assert steps_of(tmp_path) == steps_of(undisturbed)
    assert same(weights_of(tmp_path), weights_of(undisturbed))


def test_loader_processes_end_with_a_killed_training(tiny_project: Path, tmp_path: Path) -> None:
    process = started(tiny_project, tmp_path, settings(num_workers=2, budget="4000 steps"))
    seen_steps(tmp_path, 2)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # two loader processes and their fork server
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_first_and_has_its_exit_code(
    tiny_project: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    asked = settings(checkpoint_every_steps=1000, budget="4000 steps")
    process = started(tiny_project, tmp_path, asked)
    seen_steps(tmp_path, 2)
    process.send_signal(number)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == code, said
    assert f"{number.name}: the training saves its state and stops" in said
    last = max(steps_of(tmp_path))
    assert (tmp_path / "checkpoints" / f"step-{last + 1:08d}").is_dir()
    closing = f"train retrieval: saved at step {last + 1}; rerun to resume: `clipbert train retrieval` or `dvc repro`."
    assert said.strip().splitlines()[-1] == closing


def test_an_orphan_of_dvc_saves_and_stops(tiny_project: Path, tmp_path: Path) -> None:
    asked = settings(checkpoint_every_steps=1000, budget="4000 steps")
    command = [sys.executable, training_process.__file__, str(tiny_project), str(tmp_path), json.dumps(asked)]
    shell = subprocess.Popen(
        ["sh", "-c", f"{shlex.join(command)} 2> {tmp_path}/said & echo $!; wait"],
        env=os.environ | {"DVC_STAGE": "train@retrieval", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout is not None
    child = psutil.Process(int(shell.stdout.readline()))
    seen_steps(tmp_path, 2)
    shell.kill()
    shell.wait()
    child.wait(timeout=60)
    assert "the process that started this training is gone; stopped at step" in (tmp_path / "said").read_text()
    assert (tmp_path / "checkpoints" / f"step-{max(steps_of(tmp_path)) + 1:08d}").is_dir()
