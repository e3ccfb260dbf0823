"""The curves behind a report: tables that `dvc plots` reads, and the same drawn as SVG."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipbert.evaluation.run import Evaluation
from clipbert.files.atomic import atomic_write
from clipbert.tasks import task_class

MODEL, BASELINE, GRID = "#2457c5", "#9aa3b2", "#e3e6ec"


def write_tables(evaluation: Evaluation, out: Path) -> None:
    """One CSV a curve under `out`: those of the drawing that the task names in `plot`."""
    for name, table in DRAWINGS[task_class(evaluation.task).plot].tables(evaluation).items():
        with atomic_write(out / f"{name}.csv", "w") as file:
            table.to_csv(file, index=False)


def recall_table(evaluation: Evaluation) -> pd.DataFrame:
    """k, recall, chance, blank_frames: the share of texts whose video is among the first k, in percent."""
    gallery = int(evaluation.items["gallery"].max())
    k = np.arange(1, gallery + 1)

    def recall(items: pd.DataFrame) -> np.ndarray:
        share: np.ndarray = 100 * (items["rank"].to_numpy()[None, :] <= k[:, None]).mean(axis=1)
        return share

    return pd.DataFrame(
        {
            "k": k,
            "recall": recall(evaluation.items),
            "blank_frames": recall(evaluation.blank_items),
            "chance": 100 * k / gallery,
        }
    )


def accuracy_by_type(evaluation: Evaluation) -> pd.DataFrame:
    """answer_type, questions, accuracy, blank_frames: in percent, the most frequent type first."""
    kinds = evaluation.items["answer_type"]
    grouped = evaluation.items.groupby(kinds)["score"]
    blank = evaluation.blank_items["score"].groupby(kinds).mean()
    table = pd.DataFrame(
        {"questions": grouped.size(), "accuracy": 100 * grouped.mean(), "blank_frames": 100 * blank}
    ).reset_index(names="answer_type")
    return table.sort_values(["questions", "answer_type"], ascending=[False, True], ignore_index=True)


def recall_figure(evaluation: Evaluation) -> str:
    """Recall against k, as SVG."""
    table = recall_table(evaluation)

    def draw(axes: Any) -> None:
        axes.plot(table["k"], table["recall"], color=MODEL, linewidth=2, label="this model")
        axes.plot(table["k"], table["blank_frames"], color=BASELINE, linewidth=1.5, label="blank frames")
        axes.plot(table["k"], table["chance"], color=BASELINE, linewidth=1, linestyle=":", label="chance")
        axes.set(xlabel="k", ylabel="recall at k, %", xlim=(1, table["k"].max()), ylim=(0, 100), xscale="log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= table["k"].max()]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    return svg(draw)


def types_figure(evaluation: Evaluation) -> str:
    """Accuracy by kind of answer, beside the same model on blank frames, as SVG."""
    return bars(accuracy_by_type(evaluation).head(12))


def bars(table: pd.DataFrame) -> str:
    """The rows of a table (answer_type, questions, accuracy, blank_frames) as horizontal bars, as SVG."""
    table = table[::-1]

    def draw(axes: Any) -> None:
        rows = np.arange(len(table))
        axes.barh(rows + 0.19, table["accuracy"], height=0.36, color=MODEL, label="this model")
        axes.barh(rows - 0.19, table["blank_frames"], height=0.36, color=BASELINE, label="blank frames")
        axes.set_yticks(rows, [f"{row.answer_type} ({row.questions})" for row in table.itertuples()])
        axes.set(xlabel="accuracy, %", xlim=(0, 100))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        axes.grid(axis="y", visible=False)

    return svg(draw)


def caption_scores(evaluation: Evaluation) -> pd.DataFrame:
    """rank, cider, blank_frames: CIDEr of each video's caption, times 100, each column from the best to the worst."""
    ranked = [1000 * np.sort(items["score"].to_numpy())[::-1] for items in (evaluation.items, evaluation.blank_items)]
    return pd.DataFrame({"rank": np.arange(1, len(ranked[0]) + 1), "cider": ranked[0], "blank_frames": ranked[1]})


def captions_figure(evaluation: Evaluation) -> str:
    """CIDEr of the test videos from the best to the worst, beside the same model on blank frames, as SVG."""
    table = caption_scores(evaluation)

    def draw(axes: Any) -> None:
        axes.plot(table["rank"], table["cider"], color=MODEL, linewidth=2, label="this model")
        axes.plot(table["rank"], table["blank_frames"], color=BASELINE, linewidth=1.5, label="blank frames")
        axes.set(xlabel="videos, the best captioned first", ylabel="CIDEr", ylim=(0, None))
        axes.legend(frameon=False, loc="upper right")

    return svg(draw)


def training_figure(history: pd.DataFrame, validation: pd.DataFrame, metric: str) -> str:
    """The training loss and the validation metric against steps, as SVG."""

    def draw(axes: Any) -> None:
        smooth = history["loss"].ewm(span=10).mean()
        axes.plot(history["step"], history["loss"], color=BASELINE, linewidth=0.8, alpha=0.6)
        axes.plot(history["step"], smooth, color=BASELINE, linewidth=2, label="training loss")
        axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
        right = axes.twinx()
        right.plot(
            validation["step"], validation[metric], color=MODEL, linewidth=2, marker="o", markersize=3, label=metric
        )
        top = max(100, 1.05 * validation[metric].max())
        right.set(ylabel=f"validation {metric.split('/')[-1]}", ylim=(0, top))
        right.spines[["top"]].set_visible(False)
        handles = axes.get_legend_handles_labels()[0] + right.get_legend_handles_labels()[0]
        names = ["training loss", f"validation {metric.split('/')[-1]}"]
        axes.legend(handles, names, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return svg(draw)


def svg(draw: Callable[[Any], None]) -> str:
    """One drawing as an SVG element that scales with its place; the same input gives the same bytes."""
    import warnings

    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {"font.size": 9, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "clipbert"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The SVG holds its text as text: the reader's browser has fonts for scripts that matplotlib's own lacks.
        warnings.filterwarnings("ignore", r"(?s).*missing from font")
        warnings.filterwarnings("ignore", r"(?s).*Matplotlib currently does not support")
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = file.getvalue()
    return text[text.index("<svg") :]


@dataclass(frozen=True)
class Drawing:
    """How a kind of task shows its test items: the tables for `dvc plots`, and the figure with its title."""

    title: str
    tables: Callable[[Evaluation], dict[str, pd.DataFrame]]
    figure: Callable[[Evaluation], str]


def parts_table(evaluation: Evaluation) -> pd.DataFrame:
    """answer_type, questions, accuracy, blank_frames: of masked words, and of matched and unmatched texts."""

    def rows(items: pd.DataFrame) -> list[float]:
        hidden = items["hidden"].map(len).sum()
        told = [
            items["mlm_right"].sum() / hidden,
            (items["matched"] >= 0.5).mean(),
            (items["wrong_matched"] < 0.5).mean(),
        ]
        return [100 * float(value) for value in told]

    items = evaluation.items
    return pd.DataFrame(
        {
            "answer_type": ["masked words", "matched texts", "unmatched texts"],
            "questions": [int(items["hidden"].map(len).sum()), len(items), len(items)],
            "accuracy": rows(items),
            "blank_frames": rows(evaluation.blank_items),
        }
    )


DRAWINGS = {
    "parts": Drawing(
        "Words filled in, and texts told from others",
        lambda seen: {"parts": parts_table(seen)},
        lambda seen: bars(parts_table(seen)),
    ),
    "recall": Drawing("Recall at k on the test videos", lambda seen: {"recall": recall_table(seen)}, recall_figure),
    "captions": Drawing("CIDEr of the test videos", lambda seen: {"cider": caption_scores(seen)}, captions_figure),
    "types": Drawing(
        "Accuracy by kind of question",
        lambda seen: {"by_type": accuracy_by_type(seen), "confusion": seen.items[["answer", "predicted"]]},
        types_figure,
    ),
}
