"""`clipbert import NAME`: every adapter has its command, and what a user meets there."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from clipbert.cli.importing import importers
from clipbert.cli.main import app

SETS = {
    "msrvtt",
    "msrvtt_qa",
    "msrvtt_mc",
    "msvd_qa",
    "tgif_qa",
    "didemo",
    "activitynet_captions",
    "activitynet_qa",
    "coco_captions",
    "flickr8k",
    "visual_genome",
    "vqa2",
    "table",
}


def test_every_set_has_a_command_and_a_page() -> None:
    assert set(get_command(importers).commands) == SETS  # type: ignore[attr-defined]
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "datasets.md").read_text()
    assert [name for name in sorted(SETS) if f"clipbert import {name} " not in page] == []


@pytest.mark.parametrize("name", sorted(SETS))
def test_every_command_shows_an_example(name: str) -> None:
    done = CliRunner().invoke(app, ["import", name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0
    assert f"Example: clipbert import {name}" in " ".join(done.output.split())


def test_an_import_prints_its_summary(tmp_path: Path, tiny_video: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_video(tmp_path / "clips" / "a.mp4")  # type: ignore[operator]
    (tmp_path / "clips.csv").write_text("file,text,split\na.mp4,a bar,train\nb.mp4,gone,train\n")
    done = CliRunner().invoke(importers, ["table", "clips.csv", "clips", "--map", "media=file"])
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
    first = CliRunner().invoke(importers, ["table", "clips.csv", "clips"])
    assert "--hold-out val=0.1" in first.output
    shutil.rmtree(tmp_path / "data")
    done = CliRunner().invoke(
        importers, ["table", "clips.csv", "clips", "--hold-out", "val=0.3", "--hold-out", "test=0.3"]
    )
    assert done.exit_code == 0, done.output
    assert "--hold-out" not in done.output
    splits = Counter(json.loads(line)["split"] for line in (tmp_path / "data" / "captions.jsonl").open())
    assert splits.total() == 20
    assert min(splits["val"], splits["test"]) >= 2


def test_every_import_of_training_texts_can_hold_some_out() -> None:
    commands = get_command(importers).commands  # type: ignore[attr-defined]
    without = [name for name, one in commands.items() if "--hold-out" not in {o for p in one.params for o in p.opts}]
    assert without == ["msrvtt_mc"]  # a test without training
