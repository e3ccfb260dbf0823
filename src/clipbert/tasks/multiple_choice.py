"""Multiple-choice video question answering: each option is read with its question, the likeliest wins (paper 4.1)."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import regex
import torch
from torch import Tensor

from clipbert.config.tasks import MultipleChoiceParams
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.tasks.base import Batch, Encoded, Example, Predictions, QuestionTask, Tokenize, with_captions
from clipbert.tasks.scoring import option_probabilities, option_texts

MAX_TYPES = 20  # with a metric each, the most frequent ones
NOT_IN_A_NAME = regex.compile(r"[^\p{L}\p{N}]+")  # MLflow's names of metrics take letters of any script, no marks


class MultipleChoice(QuestionTask):
    """A question, its options and its video in, the position of one option out.

    As in the released code for TGIF-QA, the text of an option is the question followed by the option.
    """

    name = "multiple_choice"
    kind = "multiple_choice"
    main_metric = "multiple_choice/accuracy"
    compared = ("multiple_choice/accuracy",)
    plot = "types"
    params: MultipleChoiceParams

    def example(self, media: str, rows: pd.DataFrame, captions: list[str]) -> Example:
        example = super().example(media, rows, captions)
        for options, right in zip(rows["options"], rows["answer_index"], strict=True):
            example.options.append(list(options))
            example.right.append(int(right))
        answers = [options[right] for options, right in zip(example.options, example.right, strict=True)]
        example.answers[:] = answers
        return example

    def wording(self, example: Example, item: int) -> list[str]:
        return option_texts(example.texts[item], example.options[item])

    def model_class(self) -> type[Any]:
        from clipbert.model import ClipBertForMultipleChoice

        return ClipBertForMultipleChoice

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        return {"projection_size": 128 if self.uses_captions(train) else None}

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        return [example.right[i] for i in chosen]

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over the options of each question; and where the videos have captions, the contrastive term
        that teaches the vision half what there is to see."""
        visual_embeds = model.encode_video(batch.pixel_values)
        out = model(
            visual_embeds=visual_embeds,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            options_per_question=batch.texts_per_item,
            labels=batch.labels,
        )
        choosing = scale_loss_for_ddp(out.loss, len(batch.labels))
        total, captions = with_captions(choosing, self.params.caption_weight, model, visual_embeds, batch)
        return total, {"choosing": choosing.detach(), **captions} if captions else {}

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        for some in _batches(examples, batch_size):
            input_ids, attention_mask = tokenize([text for example, i in some for text in self.wording(example, i)])
            options = torch.tensor([len(example.options[i]) for example, i in some], device=input_ids.device)
            visual_embeds = videos.of(example.media for example, _ in some)
            probabilities = option_probabilities(model, visual_embeds, input_ids, attention_mask, options)
            confidences, choices = probabilities.max(dim=1)
            for (example, i), choice, confidence in zip(some, choices.tolist(), confidences.tolist(), strict=True):
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
                    "media": example.media,
                }

    def metrics(self, items: Predictions) -> dict[str, float]:
        """`accuracy` over all questions, and `accuracy_TYPE` over those of an answer type where there are several."""
        kinds = items["answer_type"].value_counts().head(MAX_TYPES).index
        by_kind = items.groupby("answer_type")["score"].mean()
        found = {
            "multiple_choice/accuracy": 100 * float(items["score"].mean()),
            "multiple_choice/questions": float(len(items)),
        }
        for number, kind in enumerate(kinds if len(kinds) > 1 else [], start=1):
            name = f"multiple_choice/accuracy_{NOT_IN_A_NAME.sub('_', kind)}"
            found[f"{name}_{number}" if name in found else name] = 100 * float(by_kind[kind])
        return found

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """A random option, and the position that is right most often in training."""
        return {
            "multiple_choice/chance_accuracy": 100 * float(items["chance"].mean()),
            "multiple_choice/majority_accuracy": 100 * float(self.baseline_scores(items, train)["majority"].mean()),
        }

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the position that is right most often in training, and of the option that is."""
        places = Counter(right for example in train for right in example.right)
        majority = min(places, key=lambda place: (-places[place], place))
        answers = Counter(answer for example in train for answer in example.answers)
        frequent = []
        for options, right in zip(items["options"], items["right"], strict=True):
            counts = [answers[option] for option in options]
            best = [place for place, count in enumerate(counts) if count == max(counts)]
            frequent.append((right in best) / len(best))  # of equally frequent options, a random one
        return {
            "majority": (items["right"] == majority).to_numpy(dtype=float),
            "frequent_option": np.asarray(frequent, dtype=float),
        }

    @staticmethod
    def words(row: dict[str, Any]) -> list[str]:
        return [
            row["question"],
            f"options: {', '.join(row['options'])}",
            f"answer: {row['answer']}",
            f"predicted: {row['predicted']} ({100 * row['confidence']:.0f} %)",
        ]


def _batches(examples: list[Example], batch_size: int) -> Iterator[list[tuple[Example, int]]]:
    """Questions (example, index) in groups of at most `batch_size` options together, at least one question."""
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
