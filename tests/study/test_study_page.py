"""The page, the JSON and the terminal tables of a study."""

import json
from pathlib import Path

import pytest
from browser import browser_page, find_chromium, page_faults
from study_results import make_study

from clipbert.console import RedactedConsole
from clipbert.study.analysis import Analysis, analyze
from clipbert.study.page import write_page
from clipbert.study.plan import Plan
from clipbert.study.result import write_result
from clipbert.study.text import result_lines


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, Analysis]:
    folder = tmp_path_factory.mktemp("study")
    plan, records = make_study(folder, [0, 1, 2], drop=("g-clips-2-seed2",))
    return folder, plan, analyze(plan, records, folder)


def test_the_terminal_shows_tables_and_the_answer(study: tuple[Path, Plan, Analysis]) -> None:
    _, plan, analysis = study
    console = RedactedConsole(width=120, highlight=False, markup=False, record=True, quiet=False)
    with console.capture() as capture:
        for part in result_lines(plan, analysis):
            console.print(part)
    text = capture.get()
    assert "g: retrieval, 20steps, 3 seeds" in text
    assert "+29.5 (" in text
    assert "It matters: image_size=96 is 29.5 points better than image_size=64." in text
    assert "Cheapest within one standard error of it: image_size=96; 1 clip, lse: R@1 61.0" in text
    assert "Not finished: g-clips-2-seed2." in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_json_has_everything_that_the_page_shows(study: tuple[Path, Plan, Analysis]) -> None:
    folder, plan, analysis = study
    written = json.loads(write_result(plan, "c" * 40, analysis, folder).read_text())
    assert written["choice"] == "image_size=96; 1 clip, lse"
    assert written["missing"] == ["g-clips-2-seed2"]
    assert len(written["settings"]) == len(analysis.rows)
    (size,) = [axis for axis in written["axes"] if axis["name"] == "image size"]
    assert [row["label"] for row in size["rows"]] == ["image_size=64", "image_size=96"]
    assert size["rows"][1]["effect"]["difference"] == pytest.approx(29.5)


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")
def test_in_a_browser(study: tuple[Path, Plan, Analysis], tmp_path: Path) -> None:
    folder, plan, analysis = study
    path = write_page(plan, "c" * 40, analysis, folder)
    with browser_page(tmp_path) as page:
        assert page_faults(page, path, "Not finished: g-clips-2-seed2") == []
    assert "It matters: image_size=96 is 29.5 points better" in path.read_text()
