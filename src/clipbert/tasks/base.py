"""What a task consists of: examples, objective, evaluator, and how it is presented."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from clipbert.config.schema import EvaluateParams
from clipbert.config.tasks import TaskSection
from clipbert.distributed.context import DistributedContext
from clipbert.evaluation.metrics.intervals import Statistic
from clipbert.model.weights.card import CardText
from clipbert.tasks.batch import Batch, Encoded, Example, Predictions, Tokenize
from clipbert.tasks.examples import Examples
from clipbert.tasks.presentation import Report, Serving
from clipbert.tasks.score_store import ScoreStore

VALIDATION_GROUP = 64  # examples
CONDITION_ITEMS = 200  # texts with which single and shuffled frames are measured


def thinned(examples: list[Example], texts: int, keep_empty: bool = False) -> list[Example]:
    """Return examples with at most `texts` texts in all, evenly spaced.

    Args:
        keep_empty: whether examples that lose all their texts stay, as the videos of a gallery do.
    """
    total = sum(len(example.texts) for example in examples)
    chosen = set(np.linspace(0, total - 1, min(texts, total)).round().astype(int).tolist())
    found, start = [], 0
    for example in examples:
        own = [i for i in range(len(example.texts)) if start + i in chosen]
        start += len(example.texts)
        if own or keep_empty:
            fields = ("ids", "texts", "answers", "answer_types", "options", "right", "scores")
            lists: dict[str, Any] = {
                name: [values[i] for i in own] for name in fields if (values := getattr(example, name))
            }
            found.append(replace(example, **lists))
    return found


class Objective(ABC):
    """The model that a task trains, and its loss.

    Attributes:
        model_class: a `ClipBertFor...` class; `clipbert.inference.pipelines` finds the pipeline of a task by it.
        generates_text: whether the model writes texts with its tokenizer.
        uses_dual_encoder: whether the model keeps both halves of `model.dual_encoder`; if not, its vision half is the
            backbone.
        late_part: what `late_start` is about, for messages.
        late_parameters: the names of its parameters, set by `prepare_model`.
        late_part_trained: whether it is trained by now.
    """

    late_part: ClassVar[str] = ""
    model_class: ClassVar[type[Any]]
    generates_text: ClassVar[bool] = False
    uses_dual_encoder: ClassVar[bool] = False

    def __init__(self, name: str, params: Any) -> None:
        """Args: `name` of the task, for messages; `params`: the task's section of params.yaml."""
        self.name, self.params = name, params
        self.late_parameters: frozenset[str] = frozenset()
        self.late_part_trained = True  # unless `prepare_model` freezes one

    @property
    def late_start(self) -> float | None:
        """Fraction of the training after which `late_part` is trained too; None: all is trained from the start."""
        return None

    def train_late_part(self, model: Any) -> None:
        """Train the weights of `late_parameters` too, which `prepare_model` froze, and use them in the loss."""
        for name, parameter in model.named_parameters():
            if name in self.late_parameters:
                parameter.requires_grad_(True)
        self.late_part_trained = True

    @abstractmethod
    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        """Return the fields of the model's configuration that the training data or the parameters decide."""

    def prepare_model(self, model: Any) -> None:
        """Freeze the weights of a model that is about to be trained which the parameters keep.

        Raises:
            ClipBertError: the parameters do not fit the model.
        """
        return

    @abstractmethod
    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimize, and its named parts for the log.

        In a process group the mean of the ranks' losses is the loss of the whole batch: a mean over this rank's rows
        goes through `scale_loss_for_ddp`, and what compares rows gathers those of all ranks.
        """


class Evaluator(ABC):
    """The predictions of a task's model, and their metrics.

    Attributes:
        main_metric: chooses the best epoch; higher is better.
        blank_frame_metrics: metrics that are also reported for blank frames, as `TASK/blank_frames_...`.
        frame_conditions: whether the model is also evaluated on a single frame and on frames in a random order.
        score_metric: the name after `TASK/` of the mean score of the items, in percent.
        task_settings: the parameters of the task's section that change predictions or scores; two evaluations are
            comparable only if they are equal.
        evaluate_settings: the same of the section `evaluate`, besides `clips`.
        shares_videos: whether `evaluate.processes` can share the videos of an evaluation.
    """

    main_metric: ClassVar[str]
    blank_frame_metrics: ClassVar[tuple[str, ...]]
    frame_conditions: ClassVar[bool] = False
    score_metric: ClassVar[str] = "accuracy"
    task_settings: ClassVar[tuple[str, ...]] = ()
    evaluate_settings: ClassVar[tuple[str, ...]] = ()
    shares_videos: ClassVar[bool] = False

    def __init__(self, name: str, params: Any) -> None:
        """Args: `name` of the task, the prefix of its metrics; `params`: the task's section of params.yaml."""
        self.name, self.params = name, params

    def with_settings(self, evaluate: EvaluateParams) -> "Evaluator":
        """Return the evaluator that follows the parameters of section `evaluate`; training's validation does not."""
        return self

    def with_execution(self, context: DistributedContext, store: ScoreStore | None) -> "Evaluator":
        """Return the evaluator that shares its work with the processes of `context` and keeps finished scores."""
        return self

    def for_conditions(self, model: Any, examples: list[Example]) -> tuple["Evaluator", list[Example]]:
        """Return the evaluator and the examples that measure another choice of frames at a fraction of the cost."""
        return self, thinned(examples, CONDITION_ITEMS)

    def item_ids(self, examples: list[Example]) -> list[str]:
        """Return the `item_id` of each row that `predict` yields for these examples: one per text."""
        return [text_id for example in examples for text_id in example.ids]

    def count(self, examples: list[Example]) -> int:
        """Return how many rows `predict` yields for these examples."""
        return len(self.item_ids(examples))

    def validation_groups(self, examples: list[Example]) -> list[list[Example]]:
        """Return groups of validation examples, each to be predicted by one process on its own."""
        groups = np.array_split(np.arange(len(examples)), -(-len(examples) // VALIDATION_GROUP))
        return [[examples[int(i)] for i in group] for group in groups]

    @abstractmethod
    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Yield one row per test item, in any order; `clipbert.tasks.predict.predict` restores that of `item_ids`.

        Each row has item_id, score (0 to 1), chance (the expected score of a random answer), media, and what the report
        shows; `top_media` and `top_scores`, where a row has them, are shown as a ranking. `loss`, where a row has it,
        is the negative log-probability of the right answer; NaN where it has none.
        """

    @abstractmethod
    def metrics(self, items: Predictions) -> dict[str, float]:
        """Return metrics under `TASK/...`, percentages as 0 to 100."""

    def statistics(self, items: Predictions) -> dict[str, Statistic]:
        """Return the metrics that get a confidence interval, by name, as functions of the drawn videos."""
        return {}

    def test_metrics(self, items: Predictions, blank_items: Predictions, train: list[Example]) -> dict[str, float]:
        """Return metrics that take too long for the validation of a training."""
        return {}

    @abstractmethod
    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """Return the metrics of chance and of the trivial predictor on the same items, under `TASK/...`."""

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the score of each test item by each trivial baseline besides chance and blank frames.

        Returns:
            Name to scores (items,) from 0 to 1; the column NAME_score is a key of `Report.baselines`.
        """
        return {}


class Task:
    """A task. A subclass names its parts, and `@register_task` makes it known to every command.

    Attributes:
        name: the name in params.yaml, on the command line and in metrics.
        examples: what makes the examples.
        objective: the model and its loss.
        evaluator: predictions and metrics.
        report, card, serving: how the task is presented.
    """

    name: ClassVar[str]
    params_class: ClassVar[type[TaskSection]]
    examples_class: ClassVar[type[Examples]]
    objective_class: ClassVar[type[Objective]]
    evaluator_class: ClassVar[type[Evaluator]]
    report: ClassVar[Report]
    card: ClassVar[CardText]
    serving: ClassVar[Serving]

    def __init__(self, params: TaskSection) -> None:
        """Make the parts with the task's own section of params.yaml."""
        self.params = params
        self.examples = self.examples_class(self.name, params)
        self.objective = self.objective_class(self.name, params)
        self.evaluator = self.evaluator_class(self.name, params)
