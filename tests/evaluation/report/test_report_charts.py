"""Charts: points where the numbers say, descriptions for screen readers, and words of any script as text."""

import re

import numpy as np
import pandas as pd
from task_evaluations import captioning, open_qa, retrieval

from clipbert.evaluation.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    column_chart,
    interval_scale,
    line_chart,
)
from clipbert.evaluation.report.figures import learning_curves, rank_counts, task_figures


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]
        for line in re.findall(r'points="([^"]*)"', svg)
    ]


def test_a_line_goes_from_corner_to_corner() -> None:
    svg = line_chart([Line("loss", [0, 10, 20], [0.0, 5.0, 10.0])], "step", "loss")
    (line,) = points(svg)
    assert line == [
        (LEFT, HEIGHT - BOTTOM),
        ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2),
        (WIDTH - RIGHT, TOP),
    ]
    assert 'aria-label="loss by step: loss from 0 to 10"' in svg


def test_a_logarithmic_axis_puts_10_in_the_middle_of_1_and_100() -> None:
    svg = line_chart([Line("recall", [1, 10, 100], [1.0, 1.0, 1.0])], "k", "recall", log_x=True)
    (line,) = points(svg)
    assert line[1][0] == (LEFT + WIDTH - RIGHT) / 2


def test_values_that_are_not_finite_are_left_out_and_long_lines_are_thinned() -> None:
    y = np.where(np.arange(5000) % 7 == 0, np.nan, 1.0)
    (line,) = points(line_chart([Line("a", np.arange(5000), y), Line("b", [1], [np.inf])], "x", "y"))
    assert 2 < len(line) <= MAX_POINTS
    assert line_chart([Line("a", [1.0], [np.nan])], "x", "y") == ""


def test_columns_have_their_counts_and_words_are_escaped() -> None:
    svg = column_chart(["<1>", "二"], [3, 1], "rank", "captions")
    assert ">3</text>" in svg
    assert "&lt;1&gt;" in svg
    assert "二" in svg
    heights = [float(height) for height in re.findall(r'class="column"[^>]*height="([\d.]+)"', svg)]
    assert round(heights[0] / heights[1], 1) == 3.0


def test_an_interval_is_drawn_around_its_value() -> None:
    svg = interval_scale(50.0, 25.0, 75.0, [10.0], 100.0)
    ends = re.findall(r'class="interval" x1="([\d.]+)" x2="([\d.]+)"', svg)
    assert ends == [("42.0", "118.0")]
    assert 'cx="80.0"' in svg
    assert svg.count('class="tick"') == 1
    assert 'class="interval"' not in interval_scale(50.0, None, None, [], 100.0)


def test_ranks_are_counted_in_ranges() -> None:
    ranks = pd.Series([1.0, 1.0, 1.5, 3.0, 5.0, 120.0, np.nan])
    assert rank_counts(ranks) == {
        "1": 2,
        "2": 1,
        "3": 1,
        "4-5": 1,
        "6-10": 0,
        "11-20": 0,
        "21-50": 0,
        "51-100": 0,
        ">100": 1,
        "none": 1,
    }


def test_each_task_has_its_curves() -> None:
    assert [figure.title for figure in task_figures(retrieval())] == [
        "Recall at k on the test videos",
        "Ranks of the right videos",
    ]
    assert [figure.title for figure in task_figures(open_qa())] == ["Ranks of the right answers"]
    assert [figure.title for figure in task_figures(captioning())] == [
        "CIDEr of the test videos",
        "CIDEr of the test videos",
    ]


def test_learning_curves_mark_the_best_validation() -> None:
    history = pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0]})
    validation = pd.DataFrame({"step": [1, 2, 3], "open_qa/accuracy": [10.0, 30.0, 20.0]})
    loss, accuracy = learning_curves(history, validation, "open_qa/accuracy")
    assert [name for _, name in loss.legend] == ["mean of 10 records", "training loss"]
    assert accuracy.title == "Validation accuracy: best 30.0 at step 2"
    assert accuracy.svg.count('class="mark"') == 1
    nothing = pd.DataFrame({"step": [], "epoch": [], "loss": []})
    assert learning_curves(nothing, pd.DataFrame(), "open_qa/accuracy") == []
