"""Multiple-choice video question answering: each option is read with its question (paper, section 4.1)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipbert.config.tasks import MultipleChoiceParams
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.evaluation.metrics.answers import PriorAnswers
from clipbert.model import ClipBertForMultipleChoice
from clipbert.model.weights.card import CardText
from clipbert.tasks import register_task
from clipbert.tasks.base import Objective, Task
from clipbert.tasks.batch import Batch, Encoded, Example, Predictions, Tokenize
from clipbert.tasks.contrastive import add_caption_loss, projection_size
from clipbert.tasks.presentation import BLANK, CLIPS, QUESTION_ONLY, SHUFFLED, SINGLE_FRAME, Headline, Serving
from clipbert.tasks.questions import QuestionEvaluator, QuestionExamples, QuestionReport, uses_captions
from clipbert.tasks.scoring import losses_of, option_probabilities, option_texts


class MultipleChoiceExamples(QuestionExamples):
    """Questions with their options; the label is the index of the right option.

    The text of an option is the question followed by the option, as in the released code for TGIF-QA.
    """

    kind = "multiple_choice"

    def example(self, media: str, rows: pd.DataFrame, captions: list[str]) -> Example:
        example = super().example(media, rows, captions)
        for options, right in zip(rows["options"], rows["answer_index"], strict=True):
            example.options.append(list(options))
            example.right.append(int(right))
        answers = [options[right] for options, right in zip(example.options, example.right, strict=True)]
        example.answers[:] = answers
        return example

    def input_texts(self, example: Example, item: int) -> list[str]:
        return option_texts(example.texts[item], example.options[item])

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        return [example.right[i] for i in chosen]


class MultipleChoiceObjective(Objective):
    """Cross-entropy over the options of each question, plus the contrastive loss where the videos have captions."""

    model_class = ClipBertForMultipleChoice

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        weight = self.params.caption_weight if uses_captions(self.params.caption_weight, train) else 0
        return {"projection_size": projection_size(weight)}

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        visual_embeds = batch.encode_video(model)
        out = model(
            visual_embeds=visual_embeds,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            options_per_question=batch.texts_per_item,
            labels=batch.labels,
            text_lengths=batch.text_lengths,
        )
        choosing = scale_loss_for_ddp(out.loss, len(batch.labels))
        total, captions = add_caption_loss(choosing, self.params.caption_weight, model, visual_embeds, batch)
        return total, {"choosing": choosing.detach(), **captions} if captions else {}


class MultipleChoiceEvaluator(QuestionEvaluator):
    """Accuracy, over all questions and by answer type."""

    main_metric = "multiple_choice/accuracy"
    blank_frame_metrics = ("multiple_choice/accuracy",)

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Yield the most probable option of each question."""
        for some in _batches(examples, batch_size):
            texts = [text for example, i in some for text in option_texts(example.texts[i], example.options[i])]
            input_ids, attention_mask = tokenize(texts)
            options = torch.tensor([len(example.options[i]) for example, i in some], device=input_ids.device)
            visual_embeds = videos.of(example.key for example, _ in some)
            probabilities = option_probabilities(model, visual_embeds, input_ids, attention_mask, options)
            confidences, choices = probabilities.max(dim=1)
            losses = losses_of(probabilities, [example.right[i] for example, i in some])
            found = zip(some, choices.tolist(), confidences.tolist(), losses, strict=True)
            for (example, i), choice, confidence, loss in found:
                yield {
                    "item_id": example.ids[i],
                    "score": float(choice == example.right[i]),
                    "chance": 1 / len(example.options[i]),
                    "answer_type": example.answer_types[i] or "all",
                    "question": example.texts[i],
                    "options": example.options[i],
                    "right": example.right[i],
                    "answer": example.answers[i],
                    "predicted": example.options[i][choice],
                    "confidence": confidence,
                    "loss": loss,
                    **example.place,
                }

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """Return the accuracy of a random option, and of those that `baseline_scores` describes."""
        scores = self.baseline_scores(items, train)
        return {
            "multiple_choice/chance_accuracy": 100 * float(items["chance"].mean()),
            **{f"multiple_choice/{name}_accuracy": 100 * float(found.mean()) for name, found in scores.items()},
        }

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the position that is right most often in training, of the option that is, and of the
        option that is right most often for similar questions.
        """
        positions = Counter(right for example in train for right in example.right)
        majority = min(positions, key=lambda position: (-positions[position], position))
        answers = Counter(answer for example in train for answer in example.answers)
        questions = [question for example in train for question in example.texts]
        prior = PriorAnswers(questions, [{answer: 1.0} for example in train for answer in example.answers])
        frequent, suggested = [], []
        for question, options, right in zip(items["question"], items["options"], items["right"], strict=True):
            frequent.append(_chosen(options, right, answers))
            suggested.append(_chosen(options, right, prior.totals(question)))
        return {
            "majority": (items["right"] == majority).to_numpy(dtype=float),
            "frequent_option": np.asarray(frequent, dtype=float),
            "question_only": np.asarray(suggested, dtype=float),
        }


def _chosen(options: Sequence[str], right: int, counts: Mapping[str, float]) -> float:
    """Return the score of the most frequent option; of equally frequent ones a random one is chosen."""
    found = [counts.get(option, 0.0) for option in options]
    best = [position for position, count in enumerate(found) if count == max(found)]
    return (right in best) / len(best)


def _batches(examples: list[Example], batch_size: int) -> Iterator[list[tuple[Example, int]]]:
    """Yield questions (example, index) in groups of at most `batch_size` options together, at least one question."""
    some: list[tuple[Example, int]] = []
    options = 0
    for example in examples:
        for i in range(len(example.texts)):
            if some and options + len(example.options[i]) > batch_size:
                yield some
                some, options = [], 0
            some.append((example, i))
            options += len(example.options[i])
    if some:
        yield some


class MultipleChoiceReport(QuestionReport):
    """Accuracy, with the options of each shown question."""

    title = "Multiple-choice video question answering"
    headlines = (
        Headline(
            "accuracy",
            "accuracy",
            (
                ("chance", "chance_accuracy"),
                (BLANK, "blank_frames_accuracy"),
                ("most frequent position", "majority_accuracy"),
                (QUESTION_ONLY, "question_only_accuracy"),
                (SINGLE_FRAME, "single_frame_accuracy"),
                (SHUFFLED, "shuffled_frames_accuracy"),
            ),
            row="multiple choice accuracy, %",
        ),
        Headline("questions", "questions", percent=False),
    )
    baselines: ClassVar = {
        "majority_score": "most frequent position",
        "frequent_option_score": "most frequent option",
    }

    def lines(self, row: dict[str, Any]) -> list[str]:
        question, *others = super().lines(row)
        return [question, f"options: {', '.join(row['options'])}", *others]


@register_task
class MultipleChoice(Task):
    """Chooses the right option of a question about a video."""

    name = "multiple_choice"
    params_class = MultipleChoiceParams
    examples_class = MultipleChoiceExamples
    objective_class = MultipleChoiceObjective
    evaluator_class = MultipleChoiceEvaluator
    report = MultipleChoiceReport()
    card = CardText(
        title="multiple-choice video question answering",
        about="It chooses among the options of a question about a video.",
        pipeline_tag="video-text-to-text",
        tags=("multiple-choice", "video-question-answering"),
        metrics=("accuracy",),
        example='choose = pipeline("multiple_choice", "{folder}")\n'
        'choose("a.mp4", "which way does it move?", ["to the left", "to the right"])',
    )
    serving = Serving(
        inputs={"video": "string", "question": "string", "options": "options"},
        outputs={"answer": "string", "option": "long", "confidence": "double", "option_confidences": "doubles"},
        example={
            "video": "data/videos/example.mp4",
            "question": "how does the square move?",
            "options": '["it moves left", "it moves right"]',
        },
        params=CLIPS,
    )
