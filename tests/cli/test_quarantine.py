"""`clipbert quarantine`: list, show and retry."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from params_file import write_params
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.data.manifest import read_videos
from clipbert.data.quarantine import REASONS
from clipbert.errors import ClipBertError

pytestmark = pytest.mark.slow  # the pool that decodes files starts processes

MakeVideo = Callable[..., Path]


@pytest.fixture
def project(
    tmp_path: Path, tiny_data: Callable[..., Path], tiny_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> Path:
    data = tiny_data(tmp_path / "data")
    (data / "videos" / "empty.mp4").touch()
    whole = tiny_video(data / "videos" / "cut [1].mkv", frames=40, options={"g": "4"}).read_bytes()
    (data / "videos" / "cut [1].mkv").write_bytes(whole[: len(whole) * 6 // 10])
    with (data / "captions.jsonl").open("a") as file:
        row = {"id": "cut", "media": "videos/cut [1].mkv", "text": "a bar", "split": "train"}
        file.write(json.dumps(row) + "\n")
    write_params(tmp_path, "ingest: {max_quarantined_fraction: 0.6, num_workers: 1}")
    monkeypatch.chdir(tmp_path)
    run("ingest")
    return tmp_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fails(*arguments: str) -> str:
    with pytest.raises(ClipBertError) as caught:
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return str(caught.value)


def test_list(project: Path) -> None:
    shown = run("quarantine", "list")
    assert "videos/cut [1].mkv" in shown
    assert "2 files: 1 truncated, 1 unreadable" in shown
    rows = [json.loads(line) for line in run("quarantine", "list", "--reason", "truncated", "--json").splitlines()]
    assert [(row["media"], row["stage"], row["reason"]) for row in rows] == [
        ("videos/cut [1].mkv", "ingest", "truncated")
    ]
    assert rows[0]["first_bad_s"] == pytest.approx(2.1, abs=0.1)
    assert run("quarantine", "list", "--reason", "memory") == "No file is in quarantine for memory.\n"
    assert "--reason broken: expected one of unreadable, " in fails("quarantine", "list", "--reason", "broken")


def test_show(project: Path) -> None:
    shown = run("quarantine", "show", "data/videos/cut [1].mkv")
    assert REASONS["truncated"][0] in shown
    assert "its header says 5.0 s" in shown
    assert "1 of this file" in shown
    text = fails("quarantine", "show", "videos/0.mp4")
    assert text == "videos/0.mp4: not in quarantine, which holds videos/cut [1].mkv, videos/empty.mp4."


def test_retry(project: Path, tiny_video: MakeVideo) -> None:
    empty = project / "data" / "videos" / "empty.mp4"
    tiny_video(empty)
    shown = run("quarantine", "retry", "videos/empty.mp4")
    assert "videos/empty.mp4: usable now" in shown
    assert "dvc repro" in shown
    assert "videos/empty.mp4" in set(read_videos(project / "artifacts" / "manifest")["media"])
    assert "videos/cut [1].mkv: truncated (" in run("quarantine", "retry")


def test_retry_after_a_timeout_needs_no_change_of_the_file(project: Path, tiny_video: Callable[..., Path]) -> None:
    settings = ("--set", "ingest.timeout_s=0.000001", "--set", "ingest.max_quarantined_fraction=1.0")
    # Long enough that its result cannot be there before the limit is looked at.
    tiny_video(project / "data" / "videos" / "extra.mp4", frames=900, size=(320, 240), seed=9)
    assert "1 timeout" in run("ingest", *settings)
    assert "1 timeout" in run("ingest", *settings)
    assert "videos/extra.mp4: usable now" in run("quarantine", "retry", "videos/extra.mp4")


def test_nothing_ingested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nothing was ingested yet. Run: clipbert ingest" in fails("quarantine", "list")
