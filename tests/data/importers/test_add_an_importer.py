"""Adding a data set takes one importer: its command, help, documentation and canonical data follow from it."""

import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.config.data import IngestParams
from clipbert.data.importers import registry
from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.readers import records
from clipbert.data.importers.registry import Option, importer, importers, markdown_table, unregister
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.data.ingest.stage import ingest

LAYOUT = '{"clip", "caption", "subset"}'
PROTOCOL = Protocol(media={"train": 2, "val": 1, "test": 1}, texts={"train": 2, "val": 1, "test": 1})
LINES = [
    {"clip": "a", "caption": "a bar moves", "subset": "train"},
    {"clip": "b", "caption": "a bar stands", "subset": "train"},
    {"clip": "c", "caption": "two bars", "subset": "val"},
    {"clip": "d", "caption": "no bar", "subset": "test"},
]


@pytest.fixture
def dummy() -> Iterator[None]:
    """Register the importer `dummy` for one test."""

    @importer(
        "dummy",
        title="Dummy Clips",
        paper="Nobody et al., CVPR 2030",
        about="Dummy Clips: one caption per clip.",
        tasks=("retrieval",),
        annotations="clips.jsonl",
        example="clips.jsonl videos/ --case upper",
        published=PROTOCOL,
        options={
            "case": "How captions are spelled.",
            "skipped": Option("A clip to leave out. Repeatable.", "--skip", "CLIP", frozenset),
        },
    )
    def import_dummy(
        annotations: Path,
        source: Source,
        case: Literal["lower", "upper"] = "lower",
        skipped: frozenset[str] = frozenset(),
    ) -> ImportSummary:
        with importing(source, PROTOCOL) as made:
            for number, row in enumerate(records(annotations, LAYOUT)):
                text = row.text("caption")
                if row.text("clip") not in skipped:
                    made.caption(
                        f"dummy-{number}",
                        row.text("clip"),
                        text.upper() if case == "upper" else text,
                        row.text("subset"),
                    )
        return made.summary

    yield
    unregister("dummy")


@pytest.fixture
def project(tmp_path: Path, annotated: Callable[..., Path], media: Callable[..., Path]) -> Path:
    """An empty project with annotations and clips next to it."""
    annotated("clips.jsonl", LINES)
    media("a.mp4", "b.mp4", "deep/c.mp4", "d.mp4")
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("dummy")
def test_a_registered_importer_has_its_command_help_and_row(
    project: Path, monkeypatch: pytest.MonkeyPatch, rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    monkeypatch.chdir(project)
    runner, wide = CliRunner(), {"COLUMNS": "400", "TERM": "dumb"}
    listed = runner.invoke(app, ["import", "--help"], env=wide).output
    assert "Dummy Clips: one caption per clip." in listed
    output = runner.invoke(app, ["import", "dummy", "--help"], env=wide).output
    shown = " ".join(output.replace("│", " ").split())
    assert "Example: clipbert import dummy clips.jsonl videos/ --case upper" in shown
    assert "--case <lower|upper> How captions are spelled. [default: lower]" in shown
    assert "A clip to leave out." in shown
    row = next(line for line in markdown_table().splitlines() if line.startswith("| `dummy`"))
    assert row == (
        "| `dummy` | Dummy Clips (Nobody et al., CVPR 2030) | retrieval | clips.jsonl "
        "| train 2 (2), val 1 (1), test 1 (1) |"
    )

    done = runner.invoke(
        app, ["import", "dummy", "annotations/clips.jsonl", "media", "--case", "upper", "--skip", "b"], env=wide
    )
    assert done.exit_code == 0, done.output
    assert "train: 1 media, 1 texts in these files (published: 2 media, 2 texts)" in done.output
    assert rows("captions.jsonl") == [
        {"id": "dummy-0", "text": "A BAR MOVES", "media": "videos/a.mp4", "split": "train"},
        {"id": "dummy-2", "text": "TWO BARS", "media": "videos/c.mp4", "split": "val"},
        {"id": "dummy-3", "text": "NO BAR", "media": "videos/d.mp4", "split": "test"},
    ]
    assert (project / "data/videos/a.mp4").read_bytes() == (project / "media/a.mp4").read_bytes()

    # all four clips have the same bytes, which ingest would report as duplicates
    summary = ingest(project / "data", project / "artifacts/manifest", IngestParams(duplicates="keep", num_workers=1))
    assert summary.media.total() == 3
    assert not summary.quarantined


@pytest.mark.usefixtures("dummy")
def test_a_wrong_value_or_annotation_is_an_error_of_the_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    wrong = CliRunner().invoke(app, ["import", "dummy", "annotations/clips.jsonl", "media", "--case", "title"])
    assert wrong.exit_code == 2
    (project / "annotations/clips.jsonl").write_text(json.dumps({"clip": "a"}) + "\n")
    broken = CliRunner().invoke(app, ["import", "dummy", "annotations/clips.jsonl", "media"])
    assert "line 1: no caption, only clip" in str(broken.exception)
    assert not (project / "data").exists()


@pytest.mark.usefixtures("dummy")
def test_a_name_is_registered_once_and_each_parameter_has_its_help() -> None:
    about = {"title": "", "about": "", "tasks": (), "annotations": "", "example": ""}

    def other(annotations: Path, source: Source, speed: int = 1) -> ImportSummary:
        raise NotImplementedError

    with pytest.raises(ValueError, match=r"importer dummy: .*test_add_an_importer already registers this name"):
        importer("dummy", **about)(other)
    with pytest.raises(ValueError, match=r"importer other: options describes \[\], expected \['speed'\]"):
        importer("other", **about)(other)
    assert "other" not in importers()


def test_another_package_registers_through_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "third_party_clips.py").write_text(
        "from clipbert.data.importers.registry import importer\n"
        "@importer('third_party', title='T', about='A', tasks=(), annotations='F', example='E')\n"
        "def run(annotations, source): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = [
        EntryPoint(name, module, registry.ENTRY_POINTS) for name, module in (("a", "third_party_clips"), ("b", "gone"))
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "clipbert.importers" else [])
    monkeypatch.setattr(registry, "_discovered", False)
    assert importers()["third_party"].title == "T"
    assert "gone: this importer of another package cannot be loaded (ModuleNotFoundError" in capsys.readouterr().err
    unregister("third_party")
