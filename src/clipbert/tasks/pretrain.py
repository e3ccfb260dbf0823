"""Image-text pretraining: masked language modeling and image-text matching (paper, section 3.3)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipbert.config.tasks import PretrainParams
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.errors import ClipBertError
from clipbert.evaluation.metrics.intervals import Average, Ratio, Statistic
from clipbert.model import ClipBertForPreTraining
from clipbert.model.losses import IGNORED
from clipbert.model.weights.card import CardText
from clipbert.tasks import register_task
from clipbert.tasks.base import Evaluator, Objective, Task
from clipbert.tasks.batch import Batch, Encoded, Example, Predictions, Tokenize
from clipbert.tasks.contrastive import add_caption_loss, projection_size
from clipbert.tasks.examples import Examples
from clipbert.tasks.masking import SpecialTokens, choose, mask
from clipbert.tasks.presentation import BLANK, CLIPS, BarPlot, Headline, Report, Serving
from clipbert.tasks.scoring import matched_probabilities

EVALUATION_SEED = 0  # of the masked tokens and the unmatched texts in validation and test


class PretrainExamples(Examples):
    """Captions of images, some of them exchanged for a caption of another image, and tokens to predict."""

    kind = "caption"
    media_kind = "image"
    whole_vocabulary = True

    def uses_captions(self, examples: list[Example]) -> bool:
        return bool(self.params.contrastive_weight > 0)

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        count = min(len(example.texts), self.params.texts_per_image)
        return [int(i) for i in generator.permutation(len(example.texts))[:count]]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        return [1] * len(chosen)

    def prepare(self, batch: Batch, seeds: list[int], tokenize: Tokenize, config: Any) -> Batch:
        """Exchange some texts for one of another image, then mask tokens of all texts.

        Exchanged texts are masked as well, so that a [MASK] does not reveal which texts match. They have the label 0
        and no tokens to predict.
        """
        special = SpecialTokens.of(tokenize, config.pad_token_id)
        owner = torch.repeat_interleave(torch.arange(len(seeds)), batch.texts_per_video).tolist()
        written = [tuple(row) for row in batch.input_ids.tolist()]
        own = [{written[n] for n in range(len(owner)) if owner[n] == video} for video in range(len(seeds))]
        generators = [np.random.default_rng(seed) for seed in seeds]
        rows, labels = [], []
        for n, video in enumerate(owner):
            others = [m for m in range(len(owner)) if written[m] not in own[video]]
            exchanged = generators[video].random() < self.params.unmatched_probability and bool(others)
            rows.append(others[int(generators[video].integers(len(others)))] if exchanged else n)
            labels.append(0 if exchanged else 1)
        masked = [
            mask(batch.input_ids[row], special, config.vocab_size, self.params.mask_probability, generators[video])
            for row, video in zip(rows, owner, strict=True)
        ]
        matched = torch.tensor(labels)
        targets = torch.stack([target for _, target in masked])
        return replace(
            batch,
            input_ids=torch.stack([seen for seen, _ in masked]),
            attention_mask=batch.attention_mask[rows],
            labels=matched,
            mlm_labels=torch.where(matched[:, None] == 1, targets, IGNORED),
        )


class PretrainObjective(Objective):
    """Cross-entropy of masked tokens and of matching, plus the contrastive loss of images and unmasked captions."""

    model_class = ClipBertForPreTraining

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        """Return the size of the dual encoder.

        Raises:
            ClipBertError: all training captions are equal.
        """
        if len({text for example in train for text in example.texts}) < 2:
            raise ClipBertError(
                f"{self.name}: all training captions are equal; expected at least 2 different ones, because a "
                "caption is matched against that of another image. Add captions to data/captions.jsonl."
            )
        return {"projection_size": projection_size(self.params.contrastive_weight)}

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        visual_embeds = batch.encode_video(model)
        out = model(
            visual_embeds=visual_embeds,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            mlm_labels=batch.mlm_labels,
            itm_labels=batch.labels,
            text_lengths=batch.text_lengths,
            mlm_positions=batch.labeled_positions,
        )
        assert batch.mlm_labels is not None
        mlm = scale_loss_for_ddp(out.mlm_loss, (batch.mlm_labels != IGNORED).sum())
        itm = scale_loss_for_ddp(out.itm_loss, len(batch.labels))
        parts = {"mlm": mlm.detach(), "itm": itm.detach()}
        total, captions = add_caption_loss(mlm + itm, self.params.contrastive_weight, model, visual_embeds, batch)
        return total, parts | captions


class PretrainEvaluator(Evaluator):
    """Accuracy of masked tokens and of image-text matching."""

    main_metric = "pretrain/accuracy"
    blank_frame_metrics: ClassVar[tuple[str, ...]] = (
        "pretrain/accuracy",
        "pretrain/mlm_accuracy",
        "pretrain/itm_accuracy",
    )
    task_settings = ("mask_probability",)

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Yield for each text its predicted masked tokens, and how well it and a text of another image match.

        Masked tokens and texts of other images are drawn from a fixed seed: they are the same for every model.
        """
        special = SpecialTokens.of(tokenize, model.config.pad_token_id)
        generator = np.random.default_rng(EVALUATION_SEED)
        flat = [(example, i) for example in examples for i in range(len(example.texts))]
        rows_per_batch = max(1, batch_size // 8)  # the logits of a token are as wide as the vocabulary
        for start in range(0, len(flat), rows_per_batch):
            some = flat[start : start + rows_per_batch]
            wrong = [self._wrong_text(example, flat, generator) for example, _ in some]
            own_texts = [example.texts[i] for example, i in some]
            truth, attention_mask = tokenize([*own_texts, *wrong])
            chosen = torch.stack([choose(row, special, self.params.mask_probability, generator) for row in truth])
            seen = truth.masked_fill(chosen, special.mask)
            visual = videos.of(example.key for example, _ in some)
            out = model(visual_embeds=torch.cat([visual, visual]), input_ids=seen, attention_mask=attention_mask)
            matched = matched_probabilities(model, out.itm_logits).tolist()
            predicted = out.mlm_logits[: len(some)].float().log_softmax(dim=-1).mean(dim=1).argmax(dim=-1)
            for row, (example, i) in enumerate(some):
                masked = truth[row][chosen[row]].tolist()
                guesses = predicted[row][chosen[row]].tolist()
                right = sum(a == b for a, b in zip(masked, guesses, strict=True))
                itm = (float(matched[row] >= 0.5) + float(matched[len(some) + row] < 0.5)) / 2
                yield {
                    "item_id": example.ids[i],
                    "answer_type": "all",
                    "score": (right / max(1, len(masked)) + itm) / 2,
                    "chance": (1 / model.config.vocab_size + 0.5) / 2,
                    "masked_tokens": masked,
                    "predicted_tokens": guesses,
                    "mlm_right": right,
                    "itm_score": itm,
                    "matched": matched[row],
                    "wrong_matched": matched[len(some) + row],
                    "answer": f"{len(masked)} masked",
                    "predicted": f"{right} right",
                    "text": example.texts[i],
                    "wrong_text": wrong[row],
                    **example.place,
                }

    def _wrong_text(self, example: Example, flat: list[tuple[Example, int]], generator: np.random.Generator) -> str:
        """Return a text of another image that differs from each of this image's texts."""
        others = [other.texts[i] for other, i in flat if other.media != example.media]
        others = [text for text in others if text not in example.texts]
        if not others:
            raise ClipBertError(
                f"pretrain: all captions of the other images equal those of {example.media}; image-text matching needs "
                "a different one. Add captions of other images to the split."
            )
        return others[int(generator.integers(len(others)))]

    def metrics(self, items: Predictions) -> dict[str, float]:
        return {name: statistic.value() for name, statistic in self.statistics(items).items()} | {
            "pretrain/tokens": float(items["masked_tokens"].map(len).sum()),
            "pretrain/texts": float(len(items)),
        }

    def statistics(self, items: Predictions) -> dict[str, Statistic]:
        media = items["media"].to_numpy()
        mlm = Ratio(items["mlm_right"], media, items["masked_tokens"].map(len))
        itm = Ratio(items["itm_score"], media)
        return {
            "pretrain/accuracy": Average(mlm, itm),
            "pretrain/mlm_accuracy": mlm,
            "pretrain/itm_accuracy": itm,
        }

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """Return the accuracies of the token that is masked most often in these items, and of a constant match."""
        counts = Counter(token for masked in items["masked_tokens"] for token in masked)
        mlm = 100 * max(counts.values(), default=0) / max(1, sum(counts.values()))
        return {
            "pretrain/majority_mlm_accuracy": mlm,
            "pretrain/majority_itm_accuracy": 50.0,
            "pretrain/majority_accuracy": (mlm + 50.0) / 2,
        }

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the token that is masked most often in these items, with random matching."""
        counts = Counter(token for masked in items["masked_tokens"] for token in masked)
        frequent = max(counts, key=lambda token: counts[token], default=None)
        right = [list(masked).count(frequent) / max(1, len(masked)) for masked in items["masked_tokens"]]
        return {"majority": (np.asarray(right, dtype=float) + 0.5) / 2}


class PretrainReport(Report):
    """Accuracy of masked tokens, and of matched and unmatched texts."""

    title = "Image-text pretraining"
    headlines = (
        Headline(
            "masked tokens",
            "mlm_accuracy",
            (("most frequent token", "majority_mlm_accuracy"), (BLANK, "blank_frames_mlm_accuracy")),
            row="masked token accuracy, %",
        ),
        Headline(
            "image-text matching",
            "itm_accuracy",
            (("always the same", "majority_itm_accuracy"), (BLANK, "blank_frames_itm_accuracy")),
            row="image-text matching, %",
        ),
        Headline("texts", "texts", percent=False),
    )
    baselines: ClassVar = {"majority_score": "most frequent token"}
    plot = BarPlot("Masked tokens and matching", "parts")
    groups = ("Mostly right", "Mostly wrong")

    def tables(self, items: pd.DataFrame, blank_items: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return answer_type, questions, accuracy and blank_frames of masked tokens, matched and unmatched texts."""

        def accuracies(rows: pd.DataFrame) -> list[float]:
            masked = rows["masked_tokens"].map(len).sum()
            found = [
                rows["mlm_right"].sum() / masked,
                (rows["matched"] >= 0.5).mean(),
                (rows["wrong_matched"] < 0.5).mean(),
            ]
            return [100 * float(value) for value in found]

        table = pd.DataFrame(
            {
                "answer_type": ["masked tokens", "matched texts", "unmatched texts"],
                "questions": [int(items["masked_tokens"].map(len).sum()), len(items), len(items)],
                "accuracy": accuracies(items),
                "blank_frames": accuracies(blank_items),
            }
        )
        return {"parts": table}

    def lines(self, row: dict[str, Any]) -> list[str]:
        return [
            row["text"],
            f"{row['mlm_right']} of {len(row['masked_tokens'])} masked tokens are right",
            f"matches the image: {100 * row['matched']:.0f} %",
            f'"{row["wrong_text"]}": {100 * row["wrong_matched"]:.0f} %',
        ]


@register_task
class Pretrain(Task):
    """Trains a start for other tasks on images and their captions."""

    name = "pretrain"
    params_class = PretrainParams
    examples_class = PretrainExamples
    objective_class = PretrainObjective
    evaluator_class = PretrainEvaluator
    report = PretrainReport()
    card = CardText(
        title="image-text pretraining",
        about="It predicts masked words, and whether a text matches an image: a start for other tasks "
        "(`model.init_from`).",
        pipeline_tag="feature-extraction",
        tags=("pretraining",),
        metrics=("accuracy",),
        example='match = pipeline("pretrain", "{folder}")\nmatch("a.png", ["a red circle", "a blue square"])',
    )
    serving = Serving(
        inputs={"image": "string", "text": "string"},
        outputs={"score": "double"},
        example={"image": "data/images/example.jpg", "text": "a red square"},
        params=CLIPS,
    )
