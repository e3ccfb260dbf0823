"""Promote and rollback, killed and out of disk space at operations that write, in forked children."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
from agreement import NAME
from killed_project import COMMANDS, KilledProject, assert_safe, make_project
from suite import sampled
from write_points import WritePoints, in_child, kill, no_space

from clipbert.errors import ClipBertError
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.history import history


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> KilledProject:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return make_project(tmp_path_factory.mktemp("killed"), empty_database)


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def write_points(project: KilledProject, command: str) -> list[str]:
    """The names of the points that the command passes."""
    project.restore(command)
    out = project.kept / "points.json"

    def work() -> None:
        points = WritePoints()
        points.install(pytest.MonkeyPatch())
        project.run(command)
        out.write_text(json.dumps(points.names))

    assert in_child(work) == 0
    names: list[str] = json.loads(out.read_text())
    return names


def before_each(names: list[str]) -> list[int]:
    """The points before an operation; after one and before the next, the disk is the same."""
    return [number for number, name in enumerate(names) if name.startswith("before")]


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_write_everything_agrees_after_the_next_command(
    project: KilledProject, command: str, pytestconfig: pytest.Config
) -> None:
    """At a sample of the writes, or at all with `--all-kill-points`."""
    names = write_points(project, command)
    assert {"before _commit", "after do_commit", "before fsync", "after replace"} <= set(names)
    outcomes = set()
    points = [point for point in before_each(names) if names[point] != "before mkdir"]
    for turn, point in enumerate(sampled(pytestconfig, [*points, len(names) - 1], 8)):
        project.restore(command)
        following = ("history", "promote", "register", "rollback")[turn % 4]

        def killed(point: int = point) -> None:
            WritePoints(point, kill).install(pytest.MonkeyPatch())
            project.run(command)

        def after(following: str = following) -> None:
            project.follow(following)
            assert_safe(project.root)

        assert in_child(killed) == -9, names[point]
        assert in_child(after) == 0, f"killed {names[point]} ({point}), then {following}"
        outcomes.add(project.outcome(command))
    every = {"no intent", "undone", "completed"}
    assert {"no intent", "completed"} <= outcomes <= every
    assert outcomes == every or not pytestconfig.getoption("--all-kill-points")


def failure(project: KilledProject, command: str) -> str | None:
    """What the command says when it fails."""
    try:
        project.run(command)
    except ClipBertError as error:
        return str(error)
    return None


@pytest.mark.parametrize("command", COMMANDS)
def test_message_is_true_when_the_disk_is_full_at_any_write(
    project: KilledProject, command: str, pytestconfig: pytest.Config
) -> None:
    """At a sample of the writes, or at all with `--all-kill-points`."""
    names = write_points(project, command)
    before = COMMANDS[command]
    for point in sampled(pytestconfig, before_each(names), 8):
        project.restore(command)

        def full(point: int = point) -> None:
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as notes:
                WritePoints(point, no_space).install(patch)
                message = failure(project, command)
            champion = aliases(open_store(project.root), NAME)["champion"]
            if message is None:  # a folder exists already, or only the copy of the page failed, which a note says
                assert champion != before
                if names[point] != "before mkdir":
                    page = "artifacts/promotions/retrieval.html"
                    assert f"version {champion} is promoted, but {page}" in notes.getvalue()
                    assert "No space left on device" in notes.getvalue()
                history(project.root)
                assert_safe(project.root)
                return
            assert "No space left on device" in message or "disk is full" in message
            if champion != before:
                assert "nothing was changed" not in message
                assert re.search(rf"(champion is version {champion}|version {champion} is the champion)", message)
                assert "`clipbert history retrieval`" in message
            else:
                assert not re.search(rf"champion is version (?!{before})", message)
            history(project.root)
            assert_safe(project.root)

        assert in_child(full) == 0, f"full {names[point]} ({point})"
