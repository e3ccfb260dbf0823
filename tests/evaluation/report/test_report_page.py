"""The report: one page without other files that says the numbers, and is never large."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from task_evaluations import EVALUATIONS, MEDIA, captioning, open_qa, retrieval, training

from clipbert.evaluation.report import predictions
from clipbert.evaluation.report.champion import Champion
from clipbert.evaluation.report.page import headlines, write_report
from clipbert.evaluation.run import Evaluation
from clipbert.frame_cache import FrameCache

LARGEST = 5_000_000  # bytes of a page


@pytest.fixture
def cache(tiny_project: Path) -> FrameCache:
    return FrameCache(tiny_project / "artifacts" / "frames")


def data_of(page: str) -> Any:
    """The JSON that the page's script shows."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


@pytest.mark.parametrize("make", EVALUATIONS, ids=lambda make: make.__name__)
def test_the_page_stands_alone_and_says_the_numbers(
    make: Callable[[], Evaluation], cache: FrameCache, tmp_path: Path
) -> None:
    evaluation, out = make(), tmp_path / "report.html"
    write_report(evaluation, cache, training(evaluation.task), out)
    page = out.read_text()
    for headline in headlines(evaluation.task, evaluation.metrics):
        assert headline["value"] in page
    assert "train.lr: 0.002 (default 0.001)" in page
    assert "06a540fb13514a6c.dir" in page
    assert "2 min 18 s, 3 steps, best epoch 1 of 2" in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    links = {"http://127.0.0.1:5000/#/runs/0123456789abcdef"}  # to follow, not loaded
    assert {address for address in addresses if not address.startswith("#")} == links
    shown = data_of(page)
    assert [row["id"] for row in shown["rows"]] == evaluation.items["item_id"].tolist()
    assert all(strip["picture"].startswith("data:image/webp;base64,") for strip in shown["strips"].values())
    assert "<text>" not in page
    if evaluation.task == "retrieval":
        assert shown["rows"][0]["lines"][0] == "<text> & number 0"
    if evaluation.task == "multiple_choice":
        assert "options: the star, the ring, the <cross>" in shown["rows"][1]["lines"]
    write_report(evaluation, cache, training(evaluation.task), out)
    assert out.read_text() == page


def test_the_champion_is_part_of_the_verdict(cache: FrameCache, tmp_path: Path) -> None:
    evaluation = open_qa()
    write_report(evaluation, cache, training("open_qa"), tmp_path / "report.html", Champion("4", is_this_model=True))
    assert "This model is the champion, version 4." in (tmp_path / "report.html").read_text()


def test_a_page_of_many_long_items_is_bounded(
    cache: FrameCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 1200
    drawn = np.random.default_rng(0)
    media = [name for name in cache.media if name.startswith("videos/")]
    items = pd.DataFrame(
        {
            "item_id": [f"q{i:05d}" for i in range(count)],
            "score": drawn.integers(0, 2, count).astype(float),
            "chance": 0.5,
            "answer_type": [f"type {i % 7}" for i in range(count)],
            "question": ["why " * 100] * count,
            "answer": ["a" * 400] * count,
            "predicted": ["b" * 400] * count,
            "confidence": 0.5,
            "in_vocabulary": True,
            "answer_rank": 1.0,
            "loss": drawn.random(count),
            "media": [media[i % len(media)] for i in range(count)],
        }
    )
    monkeypatch.setattr(predictions, "PICTURE_BYTES", 60_000)  # the strips of the tiny project are small
    evaluation = replace(open_qa(), items=items, blank_items=items)
    write_report(evaluation, cache, training("open_qa"), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert len(page.encode()) < LARGEST
    shown = data_of(page)
    assert len(shown["rows"]) == predictions.MAX_ROWS
    assert max(len(line) for row in shown["rows"] for line in row["lines"]) == predictions.MAX_TEXT
    pictures = [strip["picture"] for strip in shown["strips"].values()]
    assert 0 < sum(map(len, pictures)) <= 60_000
    without = [row for row in shown["rows"] if "strip" not in row]
    assert without
    assert set(shown["strips"]) <= {row["media"] for row in shown["rows"] if row["samples"]}  # the samples come first
    assert f"500 of the {count} test items" in page
    assert f"{500 - len(without)} of them have frames" in page


def test_the_page_shows_how_many_videos_were_reranked() -> None:
    metrics = retrieval().metrics
    assert "reranked videos per text" not in [card["name"] for card in headlines("retrieval", metrics)]
    metrics |= {"retrieval/reranked": 2.0, "retrieval/first_stage_recall": 75.0}
    (card,) = [card for card in headlines("retrieval", metrics) if card["name"] == "reranked videos per text"]
    assert card == {
        "name": "reranked videos per text",
        "value": "2",
        "interval": "",
        "compared_with": [("of", "4"), ("texts with their own video among them, %", "75")],
        "scale": "",
    }


def test_an_interval_is_written_with_one_unit_and_drawn() -> None:
    metrics = {**retrieval().metrics, "retrieval/r1_ci_low": 25.0, "retrieval/r1_ci_high": 75.0}
    card = headlines("retrieval", metrics)[0]
    assert (card["value"], card["interval"]) == ("50.0 %", "25.0 to 75.0 %")
    assert card["scale"].count('class="tick"') == 2  # chance and blank frames


def test_figures_without_a_sign_have_one_decimal_at_most() -> None:
    cards = {
        card["name"]: card for card in headlines("captioning", {**captioning().metrics, "captioning/cider": 228.479})
    }
    assert cards["CIDEr"]["value"] == "228.5"
    assert cards["different captions"]["value"] == "2"


def test_a_segment_is_shown_by_its_own_frames(cache: FrameCache, tmp_path: Path) -> None:
    middle = float(cache[MEDIA].times[2])
    evaluation = retrieval()
    count = len(evaluation.items)
    items = evaluation.items.assign(
        start_s=middle,
        end_s=float("nan"),
        top_media=[[MEDIA, MEDIA, MEDIA]] * count,
        top_scores=[[3.0, 2.0, 1.0]] * count,
        top_start_s=[[0.0, middle, None]] * count,
        top_end_s=[[middle, None, None]] * count,
    )
    write_report(replace(evaluation, items=items), cache, training("retrieval"), tmp_path / "report.html")
    shown = data_of((tmp_path / "report.html").read_text())
    row = shown["rows"][0]
    assert row["media"] == f"{MEDIA}, {middle:g} to the end"
    (strip,) = shown["strips"].values()
    assert strip["times"][0] == f"{middle:.2f} s"
    assert [entry["truth"] for entry in row["ranking"]] == [False, True, False]
    assert row["ranking"][0]["media"] == f"{MEDIA}, 0 to {middle:g} s"
    assert len(shown["pictures"]) == len(set(shown["pictures"].values())) == 3
