"""The page of a comparison: what it shows, and how it behaves in a browser."""

import html
import re
from pathlib import Path

import pandas as pd
import pytest
from browser import browser_page, find_chromium, page_faults
from compared import make_source, qa_items

from clipbert.evaluation.comparison.page import write_page
from clipbert.evaluation.comparison.result import Comparison, compare

COUNT = 40


@pytest.fixture(scope="module")
def comparison(tiny_project: Path) -> Comparison:
    """Two configurations with two seeds each, on videos of the frame cache and on one that it lacks."""
    videos = pd.read_parquet(tiny_project / "artifacts" / "manifest" / "videos.parquet")["media"].tolist()
    media = [videos[i % 20] for i in range(COUNT - 1)] + ["videos/missing.mp4"]
    sources = []
    for number in range(4):
        right = [float(i % 4 >= 2 - 2 * (number // 2) + number % 2) for i in range(COUNT)]
        params = {"seed": str(number), "train.lr": "0.1" if number < 2 else "0.2"}
        items = qa_items(right).assign(media=media)
        cost = {"seconds": 90.0, "parameters": 1e6}
        sources.append(make_source(f"model {number} <b>", items, params=params, cost=cost))
    return compare(sources, by_seed=True)


def test_the_page_shows_numbers_items_parameters_and_cost(
    comparison: Comparison, tiny_project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "comparison.html"
    write_page(comparison, tiny_project / "artifacts" / "frames", out, items=5)
    page = html.unescape(out.read_text())
    (pair,) = comparison.pairs
    assert page.count(pair.finding) == 1
    assert f"{pair.test.won} items won, {pair.test.lost} lost, {pair.test.tied} equal" in page
    assert "from the choice of test videos and" in page
    assert f"{len(pair.won)} items, 5 shown" in page
    assert "1 min 30 s" in page
    assert "not recorded" in page
    assert "model 0 <b>" in page
    assert "<b>" not in re.sub(r"<b>[+-][\d.]+(?: points)?</b>", "", out.read_text())
    assert "what <is>" in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', out.read_text())
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert any(address.startswith("data:") for address in addresses)
    write_page(comparison, tmp_path / "no-frames", tmp_path / "other.html", items=200)
    other = (tmp_path / "other.html").read_text()
    assert "The frame cache has no frames of this video." in other
    assert "data:image/jpeg" not in other


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")
def test_the_page_has_no_faults_in_a_browser(comparison: Comparison, tiny_project: Path, tmp_path: Path) -> None:
    out = tmp_path / "comparison.html"
    write_page(comparison, tiny_project / "artifacts" / "frames", out)
    with browser_page(tmp_path) as page:
        assert page_faults(page, out, "compared with") == []
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        # With the keyboard: the lists of items open and close.
        before = page.evaluate("document.querySelectorAll('details[open]').length")
        page.evaluate("document.querySelector('summary').focus(); document.activeElement.click()")
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert page.evaluate("document.querySelectorAll('details[open]').length") == before - 1
