"""The report in a browser: wide and on a phone, light and dark, by mouse and by keyboard."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import WIDE, Page, browser_page, find_chromium, page_faults
from task_evaluations import EVALUATIONS, open_qa, training

from clipbert.evaluation.report.champion import Champion
from clipbert.evaluation.report.page import write_report
from clipbert.evaluation.run import Evaluation
from clipbert.frame_cache import FrameCache

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")]
COUNT = 50


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser_page(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("make", EVALUATIONS, ids=lambda make: make.__name__)
def test_the_page_has_no_fault(make: Callable[[], Evaluation], page: Page, tiny_project: Path, tmp_path: Path) -> None:
    evaluation, out = make(), tmp_path / f"{make.__name__}.html"
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    write_report(evaluation, cache, training(evaluation.task), out, Champion("4"))
    assert page_faults(page, out, "predictions") == []


def many_questions() -> Evaluation:
    base = open_qa()
    right = np.arange(COUNT) % 2 == 0
    items = pd.DataFrame(
        {
            "item_id": [f"q{i:02d}" for i in range(COUNT)],
            "score": right.astype(float),
            "chance": 0.5,
            "answer_type": ["color" if i % 5 else "count" for i in range(COUNT)],
            "question": [f"what about number {i}?" for i in range(COUNT)],
            "answer": "red",
            "predicted": np.where(right, "red", "blue"),
            "confidence": 0.5,
            "in_vocabulary": True,
            "answer_rank": np.where(right, 1.0, 2.0),
            "loss": np.arange(COUNT) / 10,
            "media": "videos/clip_0000.mp4",
        }
    )
    return Evaluation("open_qa", base.metrics, items, items)


def shown(page: Page) -> list[str]:
    return list(page.evaluate("[...document.querySelectorAll('#rows > li .first')].map(line => line.textContent)"))


def choose(page: Page, **values: str) -> str:
    """Set fields of the form as a reader does, and return what the page says about the number of rows."""
    for name, value in values.items():
        page.evaluate(
            f"(() => {{ const field = document.forms.filters.elements['{name}']; field.value = '{value}';"
            "field.dispatchEvent(new Event('input', {bubbles: true})) })()"
        )
    return str(page.evaluate("document.getElementById('count').textContent"))


def focused(page: Page) -> Any:
    return page.evaluate("document.activeElement.name || document.activeElement.id || document.activeElement.tagName")


def test_predictions_can_be_filtered_sorted_and_reached_by_keyboard(
    page: Page, tiny_project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    write_report(many_questions(), cache, training("open_qa"), out)
    page.set_window(WIDE)
    page.open(out.as_uri())
    page.wait_for("12 of 12 predictions")
    assert choose(page, sample="") == f"20 of {COUNT} predictions"
    assert choose(page, outcome="wrong") == "20 of 25 predictions"
    assert choose(page, type="count") == "5 of 5 predictions"
    assert shown(page) == [f"what about number {i}?" for i in (5, 15, 25, 35, 45)]
    assert choose(page, sort="loss-down") == "5 of 5 predictions"
    assert shown(page)[0] == "what about number 45?"
    assert choose(page, type="", outcome="", text="NUMBER 4") == "11 of 11 predictions"
    assert shown(page)[:2] == ["what about number 49?", "what about number 48?"]
    assert choose(page, text="", sort="score-up")
    assert shown(page)[0] == "what about number 1?"
    assert choose(page, text="", sort="", sample="worst") == "12 of 12 predictions"
    assert shown(page)[-1] == "what about number 49?"
    assert choose(page, text="nothing has this") == "0 of 0 predictions"

    choose(page, text="", sample="")
    page.evaluate("document.forms.filters.elements.sample.focus()")
    order = []
    for _ in range(4):
        page.press("Tab")
        order.append(focused(page))
    assert order == ["outcome", "type", "sort", "text"]
    page.press("Tab")
    assert focused(page) == "more"
    page.press("Enter", "\r")
    assert page.evaluate("document.getElementById('count').textContent") == f"40 of {COUNT} predictions"
    assert page.evaluate("[...document.querySelectorAll('#rows > li')].indexOf(document.activeElement)") == 20
    assert page.evaluate("document.querySelector('#rows img').alt").startswith("6 frames of videos/clip_0000.mp4; the ")
    assert page.evaluate("document.querySelectorAll('#rows .strip .used').length > 0")
    assert page.accessibility_faults() == []


def test_the_skip_link_is_the_first_stop_of_the_keyboard(page: Page, tiny_project: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    write_report(open_qa(), cache, training("open_qa"), out)
    page.open(out.as_uri())
    page.wait_for("predictions")
    page.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.press("Enter", "\r")
    assert focused(page) == "content"
