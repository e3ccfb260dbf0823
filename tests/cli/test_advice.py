"""Every command in a message exists, with its options."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from clipbert.cli.main import app

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = ("clipbert", "dvc", "make", "mlflow", "git", "prefect")
PLACEHOLDER = "X"


def texts(path: Path) -> list[str]:
    """Return every string of a source file except docstrings; X replaces the values of f-strings."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)
            found.append("".join(map(str, parts)))
    return found


def advised() -> list[str]:
    """Return the commands in messages of src, flows and scripts: in backticks, or after a colon."""
    sources = [path for folder in ("src", "flows", "scripts") for path in (REPOSITORY / folder).rglob("*.py")]
    found = set()
    for text in (text for path in sources for text in texts(path)):
        for command in re.findall(r"`([^`\n]+)`", text):
            words = re.sub(r"^(\w+=\S+ |X )", "", command).split()
            # a command with a variable verb is the one that prints the message
            verb = words[2:3] if words[1:2] == ["import"] else words[1:2]
            if words and words[0] in PROGRAMS and verb and verb != [PLACEHOLDER]:
                found.add(" ".join(words))
        found.update(
            match.strip()
            for match in re.findall(r"(?<![`\w.-])clipbert (?:frames|quarantine|import|track)[ a-zA-Z-]*--\w+", text)
        )
    return sorted(found)


def command_at(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that a `clipbert` line calls, and its arguments."""
    command: click.Command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"clipbert has no verb {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_there_is_advice() -> None:
    found = advised()
    assert {"clipbert track sync", "clipbert track relocate", "dvc repro"} <= set(found)
    assert len(found) > 25


@pytest.mark.parametrize("command", advised())
def test_advised_commands_exist(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "clipbert":
        found, rest = command_at([word for word in words if word != "..."])
        options = {option for parameter in found.params for option in parameter.opts} | {"--help"}
        assert [word for word in rest if word.startswith("-") and word.partition("=")[0] not in options] == []
    elif program == "dvc":
        from dvc.cli.parser import get_main_parser

        words = [*words, "a=1"] if words[-1] == "-S" else words
        get_main_parser().parse_args([re.sub(r"\$\(.*", "", word) for word in words if word[:1] != "$"])
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in words if "=" not in word and word not in targets] == []
    elif program == "mlflow":
        from mlflow.cli import cli

        command_found: click.Command = cli
        while hasattr(command_found, "commands") and words and words[0] in command_found.commands:
            command_found, words = command_found.commands[words[0]], words[1:]
        assert not hasattr(command_found, "commands"), f"mlflow has no command {words}"
        options = {option for parameter in command_found.params for option in parameter.opts}
        assert [word for word in words if word.startswith("-") and word not in options] == []


def test_nothing_advises_to_force_the_whole_chain() -> None:
    """`dvc repro --force STAGE` also reruns the stages before it: it would retrain to register."""
    assert [
        command
        for command in advised()
        if "--force" in command and "repro" in command and "--single-item" not in command
    ] == []
