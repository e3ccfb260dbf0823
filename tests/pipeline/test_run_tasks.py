"""`make run` with several tasks: side by side, complete in dvc.lock, failures and interruptions reported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc_project import PROJECT, run, stages_run

pytestmark = pytest.mark.slow

# A chain without a line of ClipBERT. Each training waits until both have begun: one after the other they would fail.
TRAIN = """
echo > begun-$1
for i in $(seq 900); do [ $(ls begun-* | wc -l) = 2 ] && break; sleep 0.1; done
[ $(ls begun-* | wc -l) = 2 ] || exit 7
echo $1 uses $OMP_NUM_THREADS threads
[ ! -e wait ] || exec sleep 600
[ ! -e fail-$1 ] || exit 3
cat frames > model-$1
"""
STAGES = {
    "frames": {"cmd": "cat source > frames", "deps": ["source"], "outs": ["frames"]},
    "train": {
        "matrix": {"task": ["a", "b"]},
        "cmd": "sh train.sh ${item.task}",
        "deps": ["frames"],
        "outs": ["model-${item.task}"],
    },
    "register": {
        "matrix": {"task": ["a", "b"]},
        "cmd": "cat model-${item.task} > version-${item.task}",
        "deps": ["model-${item.task}"],
        "outs": ["version-${item.task}"],
    },
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "source").write_text("pixels\n")
    (tmp_path / "train.sh").write_text(TRAIN)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    run("git", "init", "--quiet", cwd=tmp_path)
    run("dvc", "init", "--quiet", cwd=tmp_path)
    return tmp_path


def start(project: Path, **variables: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "JOBS")}
    environment |= {"PYTHONPATH": str(PROJECT), "JOBS": "2"} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.run_tasks"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_tasks_run_side_by_side_and_nothing_is_left_to_do(project: Path) -> None:
    process = start(project)
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, output + errors
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for task in "ab":
        assert f"[{task}] {task} uses {threads} threads" in output.splitlines()
        assert f"[{task}] Running stage 'register@{task}':" in output.splitlines()
        assert (project / f"version-{task}").read_text() == "pixels\n"
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    assert set(lock["stages"]) == {"frames", "train@a", "train@b", "register@a", "register@b"}
    assert "up to date" in output.splitlines()[-1]
    assert "up to date" in run("dvc", "status", cwd=project).stdout

    again, _ = start(project).communicate(timeout=280)
    assert again.splitlines()[-1] == "Data and pipelines are up to date."
    assert "side by side" not in again


def test_a_failing_task_is_reported_and_the_other_finishes(project: Path) -> None:
    (project / "fail-a").touch()
    process = start(project)
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 255, output + errors
    assert errors == "make run: a failed with exit code 255; its messages are above\n"
    assert any(line.startswith("[a] ERROR: failed to reproduce 'train@a'") for line in output.splitlines())
    assert (project / "version-b").exists()
    assert not (project / "version-a").exists()
    (project / "fail-a").unlink()
    assert stages_run(run("dvc", "repro", cwd=project).stdout) == {"train@a", "register@a"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_both(project: Path, number: signal.Signals) -> None:
    (project / "wait").touch()
    process = start(project)
    assert process.stdout is not None
    seen = set()
    while len(seen) < 2:
        line = process.stdout.readline()
        assert line, "ended before both tasks trained"
        if "uses" in line and "threads" in line:
            seen.add(line)
    process.send_signal(number)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "make run: interrupted; the same command resumes"
    assert not (project / "model-a").exists()
    (project / "wait").unlink()
    assert "up to date" not in run("dvc", "status", cwd=project).stdout  # and no lock is left


def test_a_wrong_number_of_jobs_is_named(project: Path) -> None:
    process = start(project, JOBS="two")
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 2
    assert errors == "make run: JOBS is 'two': expected a whole number above 0, such as JOBS=1.\n"
