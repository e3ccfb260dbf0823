"""Video captioning: next-token loss on captions, one generated text a video (an application that the paper names)."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from clipbert.config.tasks import CaptioningParams
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.tasks.base import Batch, Encoded, Example, Predictions, Task, Tokenize, contrastive_loss
from clipbert.tasks.caption_metrics import best_constant, bleu4_and_rouge, cider
from clipbert.tasks.scoring import write_captions


class Captioning(Task):
    """A video in, a sentence out, measured against all captions of the video."""

    name = "captioning"
    kind = "caption"
    main_metric = "captioning/cider"
    compared = ("captioning/cider", "captioning/bleu4", "captioning/rouge_l")
    writes_text = True
    plot = "captions"
    groups = ("Upper half by CIDEr", "Lower half by CIDEr")
    params: CaptioningParams

    def model_class(self) -> type[Any]:
        from clipbert.model import ClipBertForCaptioning

        return ClipBertForCaptioning

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        return {"projection_size": 128 if self.params.contrastive_weight > 0 else None}

    def items(self, examples: list[Example]) -> int:
        return len(examples)

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        return [int(generator.integers(len(example.texts)))]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[int]:
        return [0] * len(chosen)  # what is to be said is the text itself

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The next-token loss, plus the symmetric contrastive loss where it is on: from scratch it teaches the vision
        half what there is to see long before words depend on it."""
        visual_embeds = model.encode_video(batch.pixel_values)
        writing = model(
            visual_embeds=visual_embeds,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            labels=batch.input_ids.masked_fill(batch.attention_mask == 0, -100),
        ).loss
        writing = scale_loss_for_ddp(writing, batch.attention_mask[:, 1:].sum())
        if self.params.contrastive_weight == 0:
            return writing, {}
        contrastive, _ = contrastive_loss(model, visual_embeds, batch.input_ids, batch.attention_mask, batch)
        total = writing + self.params.contrastive_weight * contrastive
        return total, {"writing": writing.detach(), "contrastive": contrastive.detach()}

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        some_ids, some_mask = tokenize([examples[0].texts[0]])
        start, end = int(some_ids[0, 0]), int(some_ids[0, int(some_mask[0].sum()) - 1])
        captions: list[str] = []
        confidences: list[float] = []
        rows = max(1, batch_size // self.params.beams)
        for first in range(0, len(examples), rows):
            visual_embeds = videos.of(example.media for example in examples[first : first + rows])
            ids, scores = write_captions(model, visual_embeds, start, end, self.params.search())
            captions += tokenize.decode(ids)
            confidences += scores
        references = [example.texts for example in examples]
        scores_of = cider(captions, references)
        for example, caption, confidence, score in zip(examples, captions, confidences, scores_of, strict=True):
            yield {
                "item_id": example.media,
                "score": float(score) / 10,
                "chance": 0.0,
                "predicted": caption,
                "references": example.texts,
                "log_probability": confidence,
                "media": example.media,
            }

    def metrics(self, items: Predictions) -> dict[str, float]:
        """CIDEr-D, BLEU-4 and ROUGE-L times 100, as the field writes them; 0 to 1000 for CIDEr."""
        bleu4, rouge = bleu4_and_rouge(items["predicted"].tolist(), [list(some) for some in items["references"]])
        return {
            "captioning/cider": 1000 * float(items["score"].mean()),
            "captioning/bleu4": 100 * bleu4,
            "captioning/rouge_l": 100 * rouge,
            "captioning/different": float(items["predicted"].nunique()),
            "captioning/videos": float(len(items)),
        }

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """What the training caption reaches that, said of every video, has the highest CIDEr here."""
        references = [list(some) for some in items["references"]]
        constant, score = self._constant(items, train)
        bleu4, rouge = bleu4_and_rouge([constant] * len(references), references)
        return {
            "captioning/constant_cider": 100 * score,
            "captioning/constant_bleu4": 100 * bleu4,
            "captioning/constant_rouge_l": 100 * rouge,
        }

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the best constant caption, said of every video."""
        references = [list(some) for some in items["references"]]
        constant, _ = self._constant(items, train)
        return {"constant": cider([constant] * len(references), references) / 10}

    def _constant(self, items: Predictions, train: list[Example]) -> tuple[str, float]:
        """Return the best constant caption of the training split for these items, and its mean CIDEr-D."""
        texts = tuple(text for example in train for text in example.texts)
        return _best_constant(texts, tuple(tuple(some) for some in items["references"]))

    @staticmethod
    def right(items: Predictions) -> "pd.Series[bool]":
        """A sentence is not right or wrong: the better half."""
        return items["score"] >= items["score"].median()

    @staticmethod
    def words(row: dict[str, Any]) -> list[str]:
        return [row["predicted"], f"CIDEr {1000 * row['score']:.0f}", *(f"caption: {t}" for t in row["references"][:2])]


@lru_cache(maxsize=1)
def _best_constant(texts: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> tuple[str, float]:
    """Return `best_constant`; metrics and item scores ask for the same one."""
    return best_constant(list(texts), [list(some) for some in references])
