"""Open-ended video question answering: a classifier over the most frequent training answers (paper, section 4.1)."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from clipbert.config.tasks import OpenQAParams
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.errors import ClipBertError
from clipbert.evaluation.metrics.answers import PriorAnswers, answer_ranks, most_frequent
from clipbert.evaluation.metrics.intervals import Ratio, Statistic
from clipbert.model import ClipBertForOpenQA
from clipbert.model.losses import IGNORED
from clipbert.model.weights.card import CardText
from clipbert.tasks import register_task
from clipbert.tasks.base import Objective, Task
from clipbert.tasks.batch import Batch, Encoded, Example, Predictions, Tokenize
from clipbert.tasks.contrastive import add_caption_loss, projection_size
from clipbert.tasks.presentation import (
    BLANK,
    CLIPS,
    QUESTION_ONLY,
    SHUFFLED,
    SINGLE_FRAME,
    TOP,
    TOP_K,
    Headline,
    Serving,
)
from clipbert.tasks.questions import QuestionEvaluator, QuestionExamples, QuestionReport, uses_captions
from clipbert.tasks.scoring import answer_probabilities, losses_of
from clipbert.text_normalization import normalize_text

COMPARED_WITH = (
    ("majority answer", "majority_accuracy"),
    (BLANK, "blank_frames_accuracy"),
    ("chance", "chance_accuracy"),
    (QUESTION_ONLY, "question_only_accuracy"),
    (SINGLE_FRAME, "single_frame_accuracy"),
    (SHUFFLED, "shuffled_frames_accuracy"),
)
ANSWER_COLUMNS = {
    "answer": "string",
    "confidence": "double",
    "top_answers": "strings",
    "top_confidences": "doubles",
}


class OpenQAExamples(QuestionExamples):
    """Questions with one right answer each; the label is the answer's index in the vocabulary."""

    kind = "open_qa"

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        """Return the answers' indices; an answer outside the vocabulary has the label that the loss ignores."""
        index = {normalize_text(answer): label for label, answer in enumerate(config.answers)}
        return [index.get(normalize_text(example.answers[i]), IGNORED) for i in chosen]


class OpenQAObjective(Objective):
    """Cross-entropy over the answers, plus the contrastive loss where the videos have captions."""

    model_class = ClipBertForOpenQA

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        """Return the vocabulary, the `max_answers` most frequent answers, and the size of the dual encoder.

        Raises:
            ClipBertError: the training questions have fewer than 2 different answers.
        """
        spellings = Counter(answer for example in train for answer in example.answers)
        counts = _answer_counts(train)
        if len(counts) < 2:
            raise ClipBertError(
                f"{self.name}: the training questions have {len(counts)} different answer(s); expected at least 2. "
                f"Add questions to data/open_qa.jsonl."
            )
        # Equal counts in alphabetical order, so that the vocabulary does not depend on the order of the file.
        ordered = sorted(counts, key=lambda answer: (-counts[answer], answer))[: self.params.max_answers]
        written: dict[str, str] = {}
        for spelling in sorted(spellings, key=lambda spelling: (-spellings[spelling], spelling)):
            written.setdefault(normalize_text(spelling), spelling)
        weight = self.params.caption_weight if uses_captions(self.params.caption_weight, train) else 0
        return {"answers": [written[answer] for answer in ordered], "projection_size": projection_size(weight)}

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        visual_embeds = batch.encode_video(model)
        out = model(
            visual_embeds=visual_embeds,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            labels=batch.labels,
            text_lengths=batch.text_lengths,
        )
        answering = scale_loss_for_ddp(out.loss, self.num_labeled(batch.labels))
        total, captions = add_caption_loss(answering, self.params.caption_weight, model, visual_embeds, batch)
        return total, {"answering": answering.detach(), **captions} if captions else {}

    def num_labeled(self, labels: Tensor) -> Tensor | int:
        """Return the number of questions over which the loss is a mean."""
        return (labels != IGNORED).sum()


class OpenQAEvaluator(QuestionEvaluator):
    """Accuracy, also by answer type and of the five most probable answers.

    An answer outside the vocabulary counts as wrong. Answers are compared after `normalize_text`: upper case, spacing
    and decomposed characters do not matter.
    """

    main_metric = "open_qa/accuracy"
    blank_frame_metrics: ClassVar[tuple[str, ...]] = ("open_qa/accuracy",)

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Yield the most probable answer to each question."""
        flat = [(example, i) for example in examples for i in range(len(example.texts))]
        answers = model.config.answers
        known = {normalize_text(answer): label for label, answer in enumerate(answers)}
        for start in range(0, len(flat), batch_size):
            some = flat[start : start + batch_size]
            input_ids, attention_mask = tokenize([example.texts[i] for example, i in some])
            visual_embeds = videos.of(example.key for example, _ in some)
            probabilities = answer_probabilities(model, visual_embeds, input_ids, attention_mask)
            confidences, choices = probabilities.max(dim=1)
            right = [known.get(normalize_text(example.answers[i]), -1) for example, i in some]
            ranks = answer_ranks(probabilities.cpu().numpy(), right).tolist()
            losses = losses_of(probabilities, right)
            found = zip(some, choices.tolist(), confidences.tolist(), ranks, losses, strict=True)
            for (example, i), choice, confidence, rank, loss in found:
                yield {
                    "item_id": example.ids[i],
                    "answer_type": example.answer_types[i] or "all",
                    "question": example.texts[i],
                    "answer": example.answers[i],
                    "predicted": answers[choice],
                    "confidence": confidence,
                    "in_vocabulary": normalize_text(example.answers[i]) in known,
                    "answer_rank": rank,
                    "loss": loss,
                    **example.place,
                    **self.score(example, i, answers[choice], answers),
                }

    def score(self, example: Example, item: int, predicted: str, answers: list[str]) -> dict[str, Any]:
        """Return the columns with the score of a predicted answer, and of a random one of `answers`."""
        right = normalize_text(predicted) == normalize_text(example.answers[item])
        return {"score": float(right), "chance": 1 / len(answers)}

    def statistics(self, items: Predictions) -> dict[str, Statistic]:
        """Return the accuracies, the share of answers among the five most probable, and that in the vocabulary."""
        media, known = items["media"].to_numpy(), items["in_vocabulary"].to_numpy(dtype=bool)
        return super().statistics(items) | {
            f"{self.name}/top{TOP_K}_accuracy": Ratio(items["answer_rank"] <= TOP_K, media),
            f"{self.name}/answer_coverage": Ratio(known, media),
            f"{self.name}/out_of_vocabulary": Ratio(~known, media),
        }

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        scores = self.baseline_scores(items, train)
        return {
            f"{self.name}/chance_accuracy": 100 * float(items["chance"].mean()),
            **{f"{self.name}/{name}_accuracy": 100 * float(found.mean()) for name, found in scores.items()},
        }

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the most frequent training answer, and of the one that each question alone suggests."""
        answers = [self.training_answers(example, i) for example in train for i in range(len(example.texts))]
        questions = [question for example in train for question in example.texts]
        prior = PriorAnswers(questions, answers)
        suggested = [prior.answer(question) for question in items["question"]]
        totals: Counter[str] = Counter()
        for scores in answers:
            totals.update(scores)
        majority = most_frequent(totals)
        return {
            "majority": self.scores_of_answers(items, [majority] * len(items)),
            "question_only": self.scores_of_answers(items, suggested),
        }

    def training_answers(self, example: Example, item: int) -> dict[str, float]:
        """Return the score of each right answer to a training question."""
        return {normalize_text(example.answers[item]): 1.0}

    def scores_of_answers(self, items: Predictions, given: list[str | None]) -> np.ndarray:
        """Return the score (items,) of a normalized answer to each test question."""
        return (items["answer"].map(normalize_text) == pd.Series(given, index=items.index)).to_numpy(dtype=float)


def _answer_counts(train: list[Example]) -> Counter[str]:
    """Return how often each normalized answer occurs in training."""
    return Counter(normalize_text(answer) for example in train for answer in example.answers)


class OpenQAReport(QuestionReport):
    """Accuracy, and the share of test answers in the vocabulary."""

    title = "Open-ended video question answering"
    headlines = (
        Headline(
            "accuracy",
            "accuracy",
            COMPARED_WITH,
            row="open QA accuracy, %",
        ),
        Headline("among the five most probable", f"top{TOP_K}_accuracy"),
        Headline("questions", "questions", percent=False),
        Headline("answers in vocabulary", "answer_coverage"),
    )
    baselines: ClassVar = {"majority_score": "majority answer"}


@register_task
class OpenQA(Task):
    """Answers a question about a video with an answer of its vocabulary."""

    name = "open_qa"
    params_class = OpenQAParams
    examples_class = OpenQAExamples
    objective_class = OpenQAObjective
    evaluator_class = OpenQAEvaluator
    report = OpenQAReport()
    card = CardText(
        title="video question answering",
        about="It answers a question about a video with one of the answers in its config.json.",
        pipeline_tag="video-text-to-text",
        tags=("video-question-answering",),
        metrics=("accuracy",),
        example='ask = pipeline("open_qa", "{folder}")\nask("a.mp4", "what color is the circle?")',
    )
    serving = Serving(
        inputs={"video": "string", "question": "string"},
        outputs=ANSWER_COLUMNS,
        example={"video": "data/videos/example.mp4", "question": "what color is the square?"},
        params=CLIPS | TOP,
    )
