"""The commands of `clipbert import`, generated from the registry of importers."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from clipbert.cli.importing import import_group
from clipbert.cli.main import app
from clipbert.config.tasks import task_names
from clipbert.data.importers.registry import importers

NAMES = list(importers())
PAGE = next((Path(__file__).parents[2] / "docs").rglob("datasets.md"))


def options(name: str) -> set[str]:
    """Return the options of a command of `clipbert import`."""
    (command,) = [command for key, command in get_command(import_group).commands.items() if key == name]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", NAMES)
def test_every_importer_has_a_command_with_its_help_an_example_and_a_section_of_the_page(name: str) -> None:
    done = CliRunner().invoke(app, ["import", name, "--help"], env={"COLUMNS": "400", "TERM": "dumb"})
    assert done.exit_code == 0
    words = " ".join(done.output.split())
    made = importers()[name]
    assert made.about in words
    assert f"Example: clipbert import {name} {made.example}" in words
    assert f"clipbert import {name} " in PAGE.read_text()
    assert set(made.tasks) <= set(task_names())


@pytest.mark.slow
def test_the_table_of_the_page_is_current() -> None:
    script = Path(__file__).parents[2] / "scripts" / "datasets_table.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_misspelled_data_set_gets_a_suggestion() -> None:
    done = CliRunner().invoke(app, ["import", "didemos", "a", "b"])
    assert done.exit_code == 2
    assert "Did you mean 'didemo'?" in done.output


@pytest.mark.slow
def test_other_verbs_do_not_load_the_importers() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from clipbert.cli.main import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print([name for name in sys.modules if name.startswith('clipbert.data.importers')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_import_prints_its_summary(tmp_path: Path, tiny_video: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_video(tmp_path / "clips" / "a.mp4")  # type: ignore[operator]
    (tmp_path / "clips.csv").write_text("file,text,split\na.mp4,a bar,train\nb.mp4,gone,train\n")
    done = CliRunner().invoke(import_group, ["table", "clips.csv", "clips", "--map", "media=file"])
    assert done.exit_code == 0, done.output
    assert "videos: 1 (1 train, 0 val, 0 test; 1 hard-linked, 0 copied)" in done.output
    assert "missing media: 1 of 2: b.mp4 (all in missing_media.txt)" in done.output
    assert (tmp_path / "data" / "captions.jsonl").is_file()


def test_the_option_that_the_summary_advises_is_there(
    tmp_path: Path, tiny_video: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        tiny_video(tmp_path / "clips" / f"{number}.mp4", frames=2, seed=number)  # type: ignore[operator]
    rows = "".join(f"{number}.mp4,a bar,train\n" for number in range(20))
    (tmp_path / "clips.csv").write_text("media,text,split\n" + rows)
    first = CliRunner().invoke(import_group, ["table", "clips.csv", "clips"])
    assert "--hold-out val=0.1" in first.output
    shutil.rmtree(tmp_path / "data")
    done = CliRunner().invoke(
        import_group, ["table", "clips.csv", "clips", "--hold-out", "val=0.3", "--hold-out", "test=0.3"]
    )
    assert done.exit_code == 0, done.output
    assert "--hold-out" not in done.output
    splits = Counter(json.loads(line)["split"] for line in (tmp_path / "data" / "captions.jsonl").open())
    assert splits.total() == 20
    assert min(splits["val"], splits["test"]) >= 2


def test_every_import_of_training_texts_can_hold_some_out() -> None:
    assert [name for name in NAMES if "--hold-out" not in options(name)] == ["msrvtt_mc"]  # a test without training
