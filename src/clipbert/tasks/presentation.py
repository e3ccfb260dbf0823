"""How a task is presented: in the report and the summary, in the model card, and in the served model.

Nothing here needs torch. `clipbert.evaluation` draws the plots; `clipbert.release` makes MLflow's signature.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd

from clipbert.config.schema import EvaluateParams
from clipbert.config.tasks import CaptioningParams, Section

BLANK = "blank frames"
SHUFFLED = "shuffled frames"
SINGLE_FRAME = "single frame"
QUESTION_ONLY = "question alone"
TOP_K = 5
MAX_TOP_K = 10_000


@dataclass(frozen=True)
class Headline:
    """A metric that a reader looks for first.

    Attributes:
        card: its name on a card of the report.
        metric: its name after `TASK/`.
        compared_with: (words, metric) pairs shown with it, the trivial baseline first.
        row: its name in the table of `clipbert summary`; None leaves it out there.
        percent: whether the report adds the sign.
        optional: whether an evaluation may lack it.
    """

    card: str
    metric: str
    compared_with: tuple[tuple[str, str], ...] = ()
    row: str | None = None
    percent: bool = True
    optional: bool = False

    def format(self, task: str, metrics: dict[str, float], metric: str) -> str:
        """Return a metric as the report shows it."""
        number = metrics[f"{task}/{metric}"]
        if self.percent:
            return f"{number:.1f} %"
        return f"{number:.0f}" if number == round(number) else f"{number:.1f}"


@dataclass(frozen=True)
class LinePlot:
    """Columns of a table as lines.

    Attributes:
        table: the table's name in `Report.tables`.
        columns: column to its name in the legend, the model's own first.
        top: the upper end of the y axis; None fits the data.
    """

    title: str
    table: str
    x: str
    columns: dict[str, str]
    xlabel: str
    ylabel: str
    log_x: bool = False
    top: float | None = None


@dataclass(frozen=True)
class BarPlot:
    """Accuracies by group: a table with the columns answer_type, questions, accuracy and blank_frames, as bars."""

    title: str
    table: str


class Report(ABC):
    """What a report and the summary show of a task.

    Attributes:
        title: of the page.
        headlines: the metrics to show first.
        baselines: the trivial baselines that a first champion has to beat: column of the predictions to name.
        plot: how one of the tables is drawn.
        groups: the names of the samples that `is_success` tells apart.
        score_scale: factor from the score of an item in percent to how the task reports it.
        score_unit: what is written after such a number.
        paired_test: how two models are compared on the same items: McNemar's test of right and wrong answers, or
            Wilcoxon's signed-rank test.
        paired_column: the column of the predictions that the test and the lists of items won and lost compare.
        paired_lower_is_better: whether a lower value of that column is better.
    """

    title: ClassVar[str]
    headlines: ClassVar[tuple[Headline, ...]]
    baselines: ClassVar[dict[str, str]] = {}
    plot: ClassVar[LinePlot | BarPlot]
    groups: ClassVar[tuple[str, str]] = ("Right", "Wrong")
    score_scale: ClassVar[float] = 1.0
    score_unit: ClassVar[str] = " %"
    paired_test: ClassVar[Literal["mcnemar", "wilcoxon"]] = "wilcoxon"
    paired_column: ClassVar[str] = "score"
    paired_lower_is_better: ClassVar[bool] = False

    @abstractmethod
    def tables(self, items: pd.DataFrame, blank_items: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return the tables behind the plots, by file name.

        Args:
            items: the predictions.
            blank_items: the predictions of the same items from blank frames.
        """

    @abstractmethod
    def lines(self, row: dict[str, Any]) -> list[str]:
        """Return the lines of text shown with the frames of one prediction, the input text first."""

    def is_success(self, items: pd.DataFrame) -> "pd.Series[bool]":
        """Return which predictions belong to the first of `groups`."""
        return items["score"] >= 0.5

    def score(self, percent: float, unit: bool = True) -> str:
        """Return a mean score, given in percent, as the task reports it: "53 %", or "228 CIDEr"."""
        return f"{self.points(percent)}{self.score_unit if unit else ''}"

    def points(self, percent: float) -> str:
        """Return a difference of mean scores, given in percent, in the units in which the task reports them."""
        value = self.score_scale * percent
        return f"{value:.1f}" if 0.05 <= abs(value) < 1 else f"{round(value):d}"

    def all_baselines(self) -> dict[str, str]:
        """Return `baselines` with chance and blank frames, which every task has."""
        return {"chance": "chance", "blank_frames_score": BLANK, **self.baselines}


@dataclass(frozen=True)
class ServedParam:
    """A parameter of a request: `int` or `float`, and its allowed range, both ends included."""

    kind: type[int] | type[float]
    low: float
    high: float

    @classmethod
    def of(cls, section: type[Section], name: str) -> "ServedParam":
        """Return the parameter with the type and range that params.yaml allows."""
        info = section.model_fields[name]
        bounds = {key: getattr(item, key) for item in info.metadata for key in ("ge", "le") if hasattr(item, key)}
        return cls(int if info.annotation is int else float, bounds["ge"], bounds["le"])


CLIPS = {"clips": ServedParam.of(EvaluateParams, "clips")}
TOP = {"top_k": ServedParam(int, 1, MAX_TOP_K)}
GENERATION = {name: ServedParam.of(CaptioningParams, name) for name in CaptioningParams().generation()}


@dataclass(frozen=True)
class Serving:
    """The columns and parameters of the served model.

    Columns have the types "string", "long", "double", "strings" and "doubles" (arrays); an input of the type "options"
    is a list of texts, or the JSON text of one.

    Attributes:
        inputs: columns of a request with their types; the first one names the file.
        outputs: columns of an answer with their types.
        example: one row of a request.
        params: parameters of a request.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    example: dict[str, Any]
    params: dict[str, ServedParam]

    @property
    def media(self) -> str:
        """The name of the column that names the file."""
        return next(iter(self.inputs))

    @property
    def segment_columns(self) -> tuple[str, ...]:
        """The columns that a request may have for a segment of a video, in seconds; images have none."""
        return ("start_s", "end_s") if self.media == "video" else ()
