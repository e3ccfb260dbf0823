"""Studies as real DVC experiments: failures, a kill, continuation, several jobs, and the result."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dvc_project import commit, run
from study_project import make_study_project, open_study

from clipbert.config.recipes import list_recipes
from clipbert.errors import ClipBertError
from clipbert.study.analysis import analyze
from clipbert.study.command import describe_plan
from clipbert.study.overlay import write_overlay
from clipbert.study.runner import POINTS

PROGRAM = """
import sys
from pathlib import Path
from study_project import open_study
print(open_study(Path({root!r})).run(1, 0, lambda point, record: None))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_study_project(tmp_path / "project")


@contextlib.contextmanager
def running_study(root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the study of a project in a process of its own, which is killed at the end of the block at the latest."""
    program = PROGRAM.format(root=str(root))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Wait until a condition holds; the end of the process fails the test."""
    while not condition():
        assert process.poll() is None
        time.sleep(0.1)


def trainings(root: Path) -> list[str]:
    """Return the trainings that were started."""
    return (root.parent / "control" / "trainings.log").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_study_continues_and_a_failed_point_runs_again(project: Path) -> None:
    control = project.parent / "control"
    (control / "hang").touch()
    with running_study(project) as process:
        wait_for(lambda: trainings(project) == ["64 0"], process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (control / "hang").unlink()
    (control / "fail").touch()

    # the point that the kill interrupted comes first, and the failure of another one stops nothing
    study = open_study(project)
    (failure,) = study.run(1, 0, lambda point, record: None)
    assert failure.startswith("sizes-image_size-96-seed0: dvc exp run: exit code")
    assert "no memory" in failure
    assert list(study.records()) == ["sizes-base-seed0"]
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# changed\n")
    with pytest.raises(ClipBertError, match=r"params.yaml: not committed"):
        open_study(project)
    run("git", "checkout", "-q", ".", cwd=project)

    # a finished point is not trained again
    (control / "fail").unlink()
    before = len(trainings(project))
    assert open_study(project).run(2, 0, lambda point, record: None) == []
    assert trainings(project)[before:] == ["96 0"]

    # each point is an experiment of the project, with its parameters and metrics
    listed = json.loads(run("dvc", "exp", "show", "--json", cwd=project).stdout)
    shown = {one["name"]: one["revs"][0]["data"] for entry in listed for one in entry.get("experiments") or []}
    assert sorted(shown) == ["sizes-base-seed0", "sizes-image_size-96-seed0"]
    larger = shown["sizes-image_size-96-seed0"]
    assert larger["params"]["params.yaml"]["data"]["train"]["budget"] == "20steps"
    assert larger["metrics"]["artifacts/metrics/retrieval.json"]["data"] == {"retrieval/r1": 48.0}
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""

    # other code or data: nothing of it is finished, and DVC's cache has the trainings
    assert "2 trainings of 20steps" in list(describe_plan(study, 1))[-2]
    (project / "data.dvc").write_text("outs: []\n")
    commit(project, "Other data")
    assert open_study(project).records() == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_several_jobs_give_the_result_and_the_recipe(project: Path) -> None:
    study = open_study(project)
    seen: list[str] = []
    assert study.run(2, 0, lambda point, record: seen.append(point.name)) == []
    assert sorted(seen) == ["sizes-base-seed0", "sizes-image_size-96-seed0"]
    assert sorted(trainings(project)) == ["64 0", "96 0"]
    assert len(list(study.workspaces.glob("job-?"))) == 2

    analysis = analyze(study.plan, study.records(), study.folder / POINTS)
    assert [(row.label, row.clips, row.values) for row in analysis.rows] == [
        ("image_size=96", 2, (65.0,)),
        ("image_size=96", 1, (62.5,)),
        ("base", 2, (45.0,)),
        ("base", 1, (42.5,)),
    ]
    assert analysis.choice.name == "image_size=96; 1 clip, lse"
    (size, clips) = analysis.axes
    assert size.finding == clips.finding == "One seed says nothing about the noise of seeds: no finding."
    (difference,) = [one.effect.difference for one in size.rows if one.effect]
    assert difference == pytest.approx(20.0)

    recipe = write_overlay(study.project, study.plan, analysis.choice)
    assert recipe == project / "recipes" / "sizes_study.yaml"
    assert "cheapest within one standard error" in list_recipes(project / "recipes")["sizes_study"]
    recipe.write_text("# My own recipe\n")
    with pytest.raises(ClipBertError, match=r"sizes_study.yaml: exists, and no study wrote it"):
        write_overlay(study.project, study.plan, analysis.choice)
