"""Image-text pretraining: masked words told with the image's help, and whether a text belongs to its image."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clipbert.config.tasks import PretrainParams
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.errors import ClipBertError
from clipbert.model.losses import IGNORED
from clipbert.tasks.base import Batch, Encoded, Example, Predictions, Task, Tokenize, with_captions
from clipbert.tasks.masking import SpecialTokens, choose, mask
from clipbert.tasks.scoring import matched_probabilities

FIXED_MASKS = 0  # seeds what is masked and which text is the wrong one in validation and test: always the same


class Pretrain(Task):
    """Masked language modelling and image-text matching on captions, as in the paper (section 3.3)."""

    name = "pretrain"
    kind = "caption"
    media_kind = "image"
    main_metric = "pretrain/accuracy"
    compared: ClassVar[tuple[str, ...]] = ("pretrain/accuracy", "pretrain/mlm_accuracy", "pretrain/itm_accuracy")
    plot = "parts"
    groups = ("Mostly right", "Mostly wrong")
    whole_vocabulary = True
    params: PretrainParams

    def model_class(self) -> type[Any]:
        from clipbert.model import ClipBertForPreTraining

        return ClipBertForPreTraining

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        if len({text for example in train for text in example.texts}) < 2:
            raise ClipBertError(
                "pretrain: the training captions are all the same: expected at least 2 different ones, for a text is "
                "matched against that of another image. Add captions to data/captions.jsonl."
            )
        return {"projection_size": 128 if self.params.contrastive_weight > 0 else None}

    def uses_captions(self, examples: list[Example]) -> bool:
        return self.params.contrastive_weight > 0

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        count = min(len(example.texts), self.params.texts_per_image)
        return [int(i) for i in generator.permutation(len(example.texts))[:count]]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        return [1] * len(chosen)

    def prepare(self, batch: Batch, seeds: list[int], tokenize: Tokenize, config: Any) -> Batch:
        """Some texts exchanged for one of another image, then all masked: a [MASK] must not tell which is which.

        The exchanged ones have label 0 and no token to tell.
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
        told = torch.stack([told for _, told in masked])
        return replace(
            batch,
            input_ids=torch.stack([seen for seen, _ in masked]),
            attention_mask=batch.attention_mask[rows],
            labels=matched,
            mlm_labels=torch.where(matched[:, None] == 1, told, IGNORED),
        )

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over the masked tokens of matched texts, plus that of matched against unmatched; and where it
        is on, the contrastive term of each image and one of its captions, unmasked."""
        visual_embeds = model.encode_video(batch.pixel_values)
        out = model(
            visual_embeds=visual_embeds,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            mlm_labels=batch.mlm_labels,
            itm_labels=batch.labels,
        )
        assert batch.mlm_labels is not None
        mlm = scale_loss_for_ddp(out.mlm_loss, (batch.mlm_labels != IGNORED).sum())
        itm = scale_loss_for_ddp(out.itm_loss, len(batch.labels))
        parts = {"mlm": mlm.detach(), "itm": itm.detach()}
        total, captions = with_captions(mlm + itm, self.params.contrastive_weight, model, visual_embeds, batch)
        return total, parts | captions

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Each text with its own image, some tokens hidden behind [MASK], and the text of another image in its place.

        Hidden tokens and wrong texts are drawn from a fixed seed, the same for every model and for blank frames.
        """
        special = SpecialTokens.of(tokenize, model.config.pad_token_id)
        generator = np.random.default_rng(FIXED_MASKS)
        flat = [(example, i) for example in examples for i in range(len(example.texts))]
        # A row of vocabulary-wide logits a token is many times what a row of labels is.
        at_once = max(1, batch_size // 8)
        for start in range(0, len(flat), at_once):
            some = flat[start : start + at_once]
            wrong = [self._wrong_text(example, flat, generator) for example, _ in some]
            own_texts = [example.texts[i] for example, i in some]
            truth, attention_mask = tokenize([*own_texts, *wrong])
            chosen = torch.stack([choose(row, special, self.params.mask_probability, generator) for row in truth])
            seen = truth.masked_fill(chosen, special.mask)
            visual = videos.of(example.media for example, _ in some)
            out = model(visual_embeds=torch.cat([visual, visual]), input_ids=seen, attention_mask=attention_mask)
            matched = matched_probabilities(model, out.itm_logits).tolist()
            told = out.mlm_logits[: len(some)].float().log_softmax(dim=-1).mean(dim=1).argmax(dim=-1)
            for row, (example, i) in enumerate(some):
                hidden = truth[row][chosen[row]].tolist()
                guesses = told[row][chosen[row]].tolist()
                right = sum(a == b for a, b in zip(hidden, guesses, strict=True))
                itm = (float(matched[row] >= 0.5) + float(matched[len(some) + row] < 0.5)) / 2
                yield {
                    "item_id": example.ids[i],
                    "answer_type": "all",
                    "score": (right / max(1, len(hidden)) + itm) / 2,
                    "chance": (1 / model.config.vocab_size + 0.5) / 2,
                    "hidden": hidden,
                    "told": guesses,
                    "mlm_right": right,
                    "itm_score": itm,
                    "matched": matched[row],
                    "wrong_matched": matched[len(some) + row],
                    "answer": f"{len(hidden)} hidden",
                    "predicted": f"{right} told",
                    "text": example.texts[i],
                    "wrong_text": wrong[row],
                    "media": example.media,
                }

    def _wrong_text(self, example: Example, flat: list[tuple[Example, int]], generator: np.random.Generator) -> str:
        """A text of another image, in other words than each of this one's."""
        others = [other.texts[i] for other, i in flat if other.media != example.media]
        others = [text for text in others if text not in example.texts]
        if not others:
            raise ClipBertError(
                f"pretrain: no other image has a text unlike those of {example.media}: image-text matching has nothing "
                "to tell apart. Add captions of other images to the split."
            )
        return others[int(generator.integers(len(others)))]

    def metrics(self, items: Predictions) -> dict[str, float]:
        hidden = int(items["hidden"].map(len).sum())
        mlm = 100 * float(items["mlm_right"].sum()) / max(1, hidden)
        itm = 100 * float(items["itm_score"].mean())
        return {
            "pretrain/accuracy": (mlm + itm) / 2,
            "pretrain/mlm_accuracy": mlm,
            "pretrain/itm_accuracy": itm,
            "pretrain/tokens": float(hidden),
            "pretrain/texts": float(len(items)),
        }

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """Always the token that is most often hidden in these very items, and always the same word on matching."""
        counts = Counter(token for hidden in items["hidden"] for token in hidden)
        mlm = 100 * max(counts.values(), default=0) / max(1, sum(counts.values()))
        return {
            "pretrain/majority_mlm_accuracy": mlm,
            "pretrain/majority_itm_accuracy": 50.0,
            "pretrain/majority_accuracy": (mlm + 50.0) / 2,
        }

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the token that is most often hidden in these items, with a coin for the matching."""
        counts = Counter(token for hidden in items["hidden"] for token in hidden)
        frequent = max(counts, key=lambda token: counts[token], default=None)
        told = [list(hidden).count(frequent) / max(1, len(hidden)) for hidden in items["hidden"]]
        return {"majority": (np.asarray(told, dtype=float) + 0.5) / 2}

    @staticmethod
    def words(row: dict[str, Any]) -> list[str]:
        return [
            row["text"],
            f"{row['mlm_right']} of {len(row['hidden'])} hidden tokens told",
            f"belongs to the image: {100 * row['matched']:.0f} %",
            f'"{row["wrong_text"]}": {100 * row["wrong_matched"]:.0f} %',
        ]
