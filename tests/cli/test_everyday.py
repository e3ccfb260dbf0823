"""Version, completion, Ctrl-C, ASCII terminals, and the next command in messages."""

import configparser
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from params_file import write_params
from typer.testing import CliRunner

from clipbert import __version__
from clipbert.cli import main as cli
from clipbert.cli.main import app
from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.interruption import RESUMED, closing_line
from clipbert.project import Project
from clipbert.stages import evaluate, register
from scripts.plots_page import name_page

REPOSITORY = Path(__file__).resolve().parents[2]
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipbert", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_version_is_shown() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"clipbert {__version__}\n")


def test_a_smaller_sample_set_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["sample-data", "--train", "4", "--val", "1", "--test", "2"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "data/multiple_choice.jsonl").read_text().splitlines()]
    splits = {row["media"]: row["split"] for row in rows}
    assert sorted(splits.values()) == ["test", "test", "train", "train", "train", "train", "val"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "script", "typed"),
    [
        ("bash", "complete -o default -F _clipbert_completion clipbert", {"COMP_CWORD": "2"}),
        ("zsh", "#compdef clipbert", {"_TYPER_COMPLETE_ARGS": "clipbert train re"}),
        ("fish", "complete --command clipbert", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_shells_complete_verbs_and_tasks(shell: str, script: str, typed: dict[str, str], tmp_path: Path) -> None:
    assert script in run(cwd=tmp_path, _CLIPBERT_COMPLETE=f"source_{shell}").stdout
    line = {"COMP_WORDS": "clipbert train re", "_TYPER_COMPLETE_ARGS": "clipbert train re"}
    offered = run(cwd=tmp_path, _CLIPBERT_COMPLETE=f"complete_{shell}", **line | typed)
    assert "retrieval" in offered.stdout
    assert "open_qa" not in offered.stdout


@pytest.mark.slow
def test_an_untrained_task_names_the_command_that_trains_it(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.manifest.mkdir(parents=True)
    (project.manifest / "texts.parquet").touch()
    for verb in (evaluate, register):
        with pytest.raises(
            ClipBertError, match=r"models/retrieval/config.json: not found: retrieval is not trained yet"
        ):
            verb(project, "retrieval", Params())
    for path in (
        project.model("retrieval") / "config.json",
        project.run("retrieval"),
        project.history("retrieval") / "train.csv",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(ClipBertError, match=r"retrieval is not evaluated yet. Run `clipbert evaluate retrieval` first"):
        register(project, "retrieval", Params())


@pytest.mark.parametrize("verb", [*RESUMED, "summary"])
def test_ctrl_c_ends_any_verb_with_a_closing_line_and_130(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any, ctx: Any) -> None:
        ctx.invoked_subcommand = verb  # as the real one sets it before it starts the verb
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperGroup.invoke", interrupted)
    monkeypatch.setattr(sys, "argv", ["clipbert", verb])
    printed: list[str] = []
    monkeypatch.setattr(cli.errors, "print", lambda text, **_: printed.append(text))
    done = CliRunner().invoke(app, [verb])
    assert done.exit_code == 130
    assert len(printed) == 1
    assert printed[0].endswith(f"rerun `clipbert {verb}`{' to finish' if verb in RESUMED else ''}.")


def test_the_closing_line_says_what_is_left() -> None:
    assert closing_line("ingest", ["ingest", "--set", "ingest.num_workers=1"]) == (
        "clipbert: ingest was interrupted: the manifest is unchanged; probed files are not probed again; "
        "rerun `clipbert ingest --set ingest.num_workers=1` to finish."
    )
    assert closing_line("promote", ["promote", "open_qa", "--set", "seed=1"]) == (
        "clipbert: promote was interrupted: the champion may or may not have changed: `clipbert history open_qa` says "
        "so, and completes or undoes the change; rerun `clipbert promote open_qa --set seed=1` to finish."
    )


@pytest.mark.slow
def test_a_real_ctrl_c_leaves_nothing_and_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "clipbert", "sample-data"],
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".data*/videos")) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.5)  # its workers are starting
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert (
        said == "clipbert: sample-data was interrupted: nothing was written; rerun `clipbert sample-data` to finish.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_terminal_that_shows_ascii_only(tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    rows = []
    for number, (name, split) in enumerate([("l\u00f6we", "train"), ("\u732b", "val"), ("\u043a\u043e\u0442", "test")]):
        tiny_video(tmp_path / "data" / "videos" / f"{name}.mp4", seed=number)
        rows.append({"id": f"c{number}", "media": f"videos/{name}.mp4", "text": f"a {name}", "split": split})
    (tmp_path / "data" / "videos" / "\u00fc.mp4").write_bytes(b"broken")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "data" / "captions.jsonl").write_text(lines, encoding="utf-8")
    write_params(tmp_path)

    done = run("ingest", "--set", "ingest.max_quarantined_fraction=0.5", cwd=tmp_path, **ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("quarantine", "list", cwd=tmp_path, **ASCII)
    assert done.returncode == 0
    assert "videos/\\xfc.mp4" in done.stdout
    assert "\u732b" not in done.stdout
    done = run("--help", cwd=tmp_path, **ASCII)
    assert done.returncode == 0
    assert done.stdout.isascii()


def test_the_plots_page_is_named_for_this_clone_alone(tmp_path: Path) -> None:
    shared = configparser.ConfigParser()
    shared.read(REPOSITORY / ".dvc" / "config")
    assert not shared.has_section("plots")  # in a clone where `make install` never ran, there is no such page
    own = tmp_path / "config.local"
    own.write_text("['remote \"mine\"']\n    access_key_id = %a%\n")
    name_page(own)
    name_page(own)
    assert own.read_text().splitlines() == [
        "['remote \"mine\"']",
        "access_key_id = %a%",
        "",
        "[plots]",
        "html_template = tmp/plots_page.html",
        "",
    ]
