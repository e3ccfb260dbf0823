"""The dashboard: what it says of a project, of an empty one, and in a browser."""

import json
import shutil
from pathlib import Path

import pytest
from browser import browser_page, find_chromium, page_faults

from clipbert.dashboard.page import FLOW_RUNS, write_dashboard
from clipbert.project import Project

TASKS = ["retrieval"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "CLIPBERT_MLFLOW_UI", "CLIPBERT_PREFECT_UI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def empty_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dashboard(Project(tmp_path_factory.mktemp("empty")), [*TASKS, "open_qa"], "clipbert")


@pytest.fixture(scope="module")
def full_page(experiments_project: Path) -> Path:
    project = Project(experiments_project)
    scheduled = {"started": "2026-11-28T01:00:00+00:00", "name": "brave-otter", "scheduled": True, "state": "Completed"}
    lines = [json.dumps(scheduled | {"message": "3 of 9 stages had work", "seconds": 90}), "{damaged"]
    (project.artifacts / FLOW_RUNS).write_text("\n".join(lines) + "\n")
    return write_dashboard(project, TASKS, "clipbert")


def test_an_empty_project_is_described_in_words(empty_page: Path) -> None:
    text = empty_page.read_text()
    for words in (
        "the MLflow database does not exist yet",
        "No experiment has been evaluated yet",
        "DVC cannot list the experiments",
        "The data have not been validated yet",
        "No run of the Prefect flow is recorded yet",
        "Nothing was promoted, rejected or rolled back yet",
    ):
        assert words in text
    assert not (empty_page.parents[2] / "mlflow").exists()  # looking makes no database


def test_champion_experiments_runs_and_decisions(full_page: Path) -> None:
    text = full_page.read_text()
    assert "Version 2 is the champion" in text
    assert "75.0 %" in text  # 45 of 60 items of the second version
    for words in ("slower", "train.lr=0.0005", "45.5 to 55.5", "tasks.retrieval.negatives=4"):
        assert words in text
    assert text.count("<svg") == 3  # versions, parallel coordinates, accuracy against cost
    assert all(f'data-name="{name}"' in text for name in ("slower", "faster", "main"))
    assert "brave-otter" in text
    assert "3 of 9 stages had work" in text
    assert text.count(">promoted<") == 2
    assert "1 → 2" in text


def test_a_registry_that_cannot_be_read_is_named_and_the_rest_is_shown(
    experiments_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    root = Path(shutil.copytree(experiments_project, tmp_path / "project", symlinks=True))
    text = write_dashboard(Project(root), TASKS, "clipbert").read_text()
    assert "MLflow store http://***@127.0.0.1:9 cannot be used" in text
    assert "secret" not in text
    assert "slower" in text


@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")
def test_in_a_browser(full_page: Path, empty_page: Path, tmp_path: Path) -> None:
    with browser_page(tmp_path) as page:
        assert page_faults(page, empty_page, "Decisions") == []
        assert page_faults(page, full_page, "Decisions") == []
        first = "document.querySelector('table.sortable tbody tr').dataset.name"
        assert page.evaluate(first) == "slower"  # the best validation metric
        click = (
            "[...document.querySelectorAll('table.sortable button')].find(b => b.innerText.startsWith('test')).click()"
        )
        page.evaluate(click)
        assert page.evaluate(first) == "faster"
        page.evaluate(click)
        assert page.evaluate(first) != "faster"
        page.evaluate("document.querySelector('tr[data-name=faster]').dispatchEvent(new Event('pointerenter'))")
        shown = "[...document.querySelectorAll('svg [data-name].on')].map(m => m.dataset.name)"
        assert set(page.evaluate(shown)) == {"faster"}
