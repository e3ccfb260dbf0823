"""Command line: help, exit codes, and messages without tracebacks."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from forked_python import run_program
from params_file import write_params
from policies import write_policy

from clipbert.cli.main import app

pytestmark = pytest.mark.slow


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group with its words."""
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def clipbert(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command on a wide terminal, so that help boxes do not wrap messages."""
    return run_program("-m", "clipbert", *arguments, cwd=cwd, environment=os.environ | {"COLUMNS": "200"} | environment)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_params(tmp_path)
    write_policy(tmp_path)
    return tmp_path


def test_every_command_has_a_sentence_and_an_example() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert {("train",), ("import", "msrvtt"), ("track", "sync"), ("quarantine", "retry")} <= found.keys()
    for words, command in found.items():
        name = " ".join(words)
        assert re.match(r"[A-Z][^\n]*[.:)]", command.help or ""), f"{name}: {command.help}"
        assert (command.epilog or "").startswith(f"Example: `clipbert {name}"), f"{name}: {command.epilog}"


def test_the_help_shows_the_example(tmp_path: Path) -> None:
    done = clipbert("train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Example: clipbert train retrieval --set train.lr=0.0005" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest"], "data"),
        (["validate"], "clipbert ingest"),
        (["frames"], "clipbert ingest"),
        (["train", "retrieval"], "clipbert ingest"),
        (["evaluate", "retrieval"], "clipbert ingest"),
        (["register", "retrieval"], "retrieval is not trained yet. Run `clipbert train retrieval` first"),
        (["promote", "retrieval"], "candidate"),
        (["rollback", "open_qa"], "champion"),
        (["summary"], "dvc repro"),
        (["train", "retreival"], "Did you mean retrieval?"),
        (["train", "retrieval", "--set", "train.lr=9"], "train.lr = 9: expected less than or equal to 1"),
        (["train", "retrieval", "--params", "other.yaml"], "other.yaml: no such parameter file"),
        (["import", "msrvtt", "no.json", "videos"], "no.json"),
        (["import", "vqa2", "vqa", "coco", "--hold-out", "tst=0.1"], "--hold-out tst=0.1: expected SPLIT=FRACTION"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_users_error_is_one_message_and_exit_2(project: Path, arguments: list[str], message: str) -> None:
    done = clipbert(*arguments, cwd=project)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("clipbert: ")
    assert "Traceback" not in done.stderr
    made = {path.name for path in project.iterdir()}
    assert made <= {"params.yaml", "mlflow", "artifacts"}
    assert not [path for path in project.rglob("*") if path.name.endswith((".tmp", ".old"))]


def test_an_unknown_option_is_named(project: Path) -> None:
    done = clipbert("train", "--bad", cwd=project)
    assert done.returncode == 2
    assert "No such option: --bad" in done.stderr


def test_params_lists_every_knob_with_its_meaning(project: Path) -> None:
    done = clipbert("params", "--set", "train.lr=0.25", cwd=project)
    assert done.returncode == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("train.lr "))
    assert line.split()[1] == "0.25"
    assert "peak learning rate" in line
