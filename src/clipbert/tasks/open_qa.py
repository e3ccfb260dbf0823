"""Open-ended video question answering: a classifier over the most frequent training answers (paper, section 4.1)."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from clipbert.config.tasks import OpenQAParams
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.errors import ClipBertError
from clipbert.model.losses import IGNORED
from clipbert.tasks.base import Batch, Encoded, Example, Predictions, QuestionTask, Tokenize, with_captions
from clipbert.tasks.scoring import answer_probabilities
from clipbert.text_normalization import normalize_text


class OpenQA(QuestionTask):
    """A question and its video in, one answer out; an answer outside the vocabulary always counts as wrong.

    Answers are compared as `normalize_text` gives them: upper case, spacing and decomposed characters do not matter.
    """

    name = "open_qa"
    kind = "open_qa"
    main_metric = "open_qa/accuracy"
    compared: ClassVar[tuple[str, ...]] = ("open_qa/accuracy",)
    plot = "types"
    params: OpenQAParams

    def model_class(self) -> type[Any]:
        from clipbert.model import ClipBertForOpenQA

        return ClipBertForOpenQA

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        spellings = Counter(answer for example in train for answer in example.answers)
        counts = _counts(train)
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
        projection = 128 if self.uses_captions(train) else None
        return {"answers": [written[answer] for answer in ordered], "projection_size": projection}

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        index = {normalize_text(answer): label for label, answer in enumerate(config.answers)}
        return [index.get(normalize_text(example.answers[i]), IGNORED) for i in chosen]

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over the answers, to which questions with an answer outside the vocabulary add nothing; and
        where the videos have captions, the contrastive term that teaches the vision half what there is to see."""
        visual_embeds = model.encode_video(batch.pixel_values)
        out = model(
            visual_embeds=visual_embeds,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            labels=batch.labels,
        )
        answering = scale_loss_for_ddp(out.loss, self.counted(batch.labels))
        total, captions = with_captions(answering, self.params.caption_weight, model, visual_embeds, batch)
        return total, {"answering": answering.detach(), **captions} if captions else {}

    def counted(self, labels: Tensor) -> Tensor | int:
        """Over how many questions the loss is a mean."""
        return (labels != IGNORED).sum()

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        flat = [(example, i) for example in examples for i in range(len(example.texts))]
        answers = model.config.answers
        known = {normalize_text(answer) for answer in answers}
        for start in range(0, len(flat), batch_size):
            some = flat[start : start + batch_size]
            input_ids, attention_mask = tokenize([example.texts[i] for example, i in some])
            visual_embeds = videos.of(example.media for example, _ in some)
            probabilities = answer_probabilities(model, visual_embeds, input_ids, attention_mask)
            confidences, choices = probabilities.max(dim=1)
            for (example, i), choice, confidence in zip(some, choices.tolist(), confidences.tolist(), strict=True):
                yield {
                    "item_id": example.ids[i],
                    "answer_type": example.answer_types[i] or "all",
                    "question": example.texts[i],
                    "answer": example.answers[i],
                    "predicted": answers[choice],
                    "confidence": confidence,
                    "in_vocabulary": normalize_text(example.answers[i]) in known,
                    "media": example.media,
                    **self.scored(example, i, answers[choice], answers),
                }

    def scored(self, example: Example, item: int, predicted: str, answers: list[str]) -> dict[str, Any]:
        """The columns that tell what a predicted answer is worth, and what a random one of `answers` would be."""
        right = normalize_text(predicted) == normalize_text(example.answers[item])
        return {"score": float(right), "chance": 1 / len(answers)}

    def metrics(self, items: Predictions) -> dict[str, float]:
        return {
            f"{self.name}/accuracy": 100 * float(items["score"].mean()),
            f"{self.name}/answer_coverage": 100 * float(items["in_vocabulary"].mean()),
            f"{self.name}/questions": float(len(items)),
        }

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        return {
            f"{self.name}/chance_accuracy": 100 * float(items["chance"].mean()),
            f"{self.name}/majority_accuracy": 100 * float(self.baseline_scores(items, train)["majority"].mean()),
        }

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the most frequent training answer, given to every question."""
        counts = _counts(train)
        majority = min(counts, key=lambda answer: (-counts[answer], answer))
        return {"majority": (items["answer"].map(normalize_text) == majority).to_numpy(dtype=float)}

    @staticmethod
    def words(row: dict[str, Any]) -> list[str]:
        return [
            row["question"],
            f"answer: {row['answer']}",
            f"predicted: {row['predicted']} ({100 * row['confidence']:.0f} %)",
        ]


def _counts(train: list[Example]) -> Counter[str]:
    """How often each normalized answer is given in training."""
    return Counter(normalize_text(answer) for example in train for answer in example.answers)
