"""Image-text pretraining: masked language modelling and image-text matching (paper, section 3.3)."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipbert.params import PretrainParams
from clipbert.tasks.base import Batch, Encoded, Example, Predictions, Task, Tokenize

IGNORED = -100
MASKED, KEPT_OR_RANDOM = 0.8, 0.5  # of the chosen words 80 % are masked, half of the others replaced (BERT)


class Pretrain(Task):
    """Captions beside their images: fill in masked words, and tell an image's own text from another's.

    What it learns is a start for the other tasks: `model.init_from: artifacts/models/pretrain`.
    """

    name = "pretrain"
    kind = "caption"
    media_kind = "image"
    main_metric = "pretrain/mlm_accuracy"
    compared = ("pretrain/mlm_accuracy", "pretrain/itm_accuracy")
    plot = "parts"
    params: PretrainParams

    def model_class(self) -> type[Any]:
        from clipbert.model import ClipBertForPreTraining

        return ClipBertForPreTraining

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        return {}

    def vocabulary(self, train: list[Example], texts: pd.DataFrame) -> set[str]:
        """All training texts of the data, whatever their task: who starts from this model has its words."""
        rows = texts[texts["split"] == "train"]
        options = {option for some in rows["options"] if some is not None for option in some}
        return {*rows["text"], *rows["answer"].dropna(), *options}

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        count = min(len(example.texts), self.params.texts_per_image)
        return [int(i) for i in generator.permutation(len(example.texts))[:count]]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        return [1] * len(chosen)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """MLM plus ITM: `unmatched` of the texts are those of another image, from which no masked word is learned."""
        device = batch.input_ids.device
        owner = torch.repeat_interleave(torch.arange(len(batch.texts_per_video), device=device), batch.texts_per_video)
        rows, matched = mismatch(owner, self.params.unmatched)
        ids, attention = batch.input_ids[rows], batch.attention_mask[rows]
        masked, mlm_labels = mask_words(ids, attention, self.params.masked, model.config)
        out = model(
            pixel_values=batch.pixel_values,
            input_ids=masked,
            attention_mask=attention,
            texts_per_video=batch.texts_per_video,
            mlm_labels=torch.where(matched[:, None] == 1, mlm_labels, IGNORED),
            itm_labels=matched,
        )
        return out.loss, {"mlm": out.mlm_loss.detach(), "itm": out.itm_loss.detach()}

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Each text once with some of its words masked, always the same ones, and whole beside its own and the next
        image."""
        place = {media: index for index, media in enumerate(videos.media)}
        flat = [(number, i) for number, example in enumerate(examples) for i in range(len(example.texts))]
        for start in range(0, len(flat), batch_size):
            some = flat[start : start + batch_size]
            media = [examples[number].media for number, _ in some]
            others = [examples[(number + 1) % len(examples)].media for number, _ in some]
            ids, attention = tokenize([examples[number].texts[i] for number, i in some])
            masked, labels = mask_words(ids, attention, self.params.masked, model.config, seed=start)
            counts = torch.ones(len(some), dtype=torch.long, device=ids.device)

            def seen(names: list[str], ids: Tensor, attention: Tensor = attention, counts: Tensor = counts) -> Any:
                embeds = torch.stack([videos.visual_embeds[place[name]] for name in names])
                return model(visual_embeds=embeds, input_ids=ids, attention_mask=attention, texts_per_video=counts)

            filled = seen(media, masked).mlm_logits.float().mean(dim=1).argmax(dim=-1)
            own = (seen(media, ids).itm_logits.float().logsumexp(dim=1).argmax(dim=1) == 1).tolist()
            foreign = (seen(others, ids).itm_logits.float().logsumexp(dim=1).argmax(dim=1) == 0).tolist()
            for row, (number, i) in enumerate(some):
                chosen = labels[row] != IGNORED
                right = filled[row][chosen] == labels[row][chosen]
                yield {
                    "item_id": examples[number].ids[i],
                    "score": float(right.float().mean()),
                    "chance": 1 / model.config.vocab_size,
                    "text": examples[number].texts[i],
                    "words": int(chosen.sum()),
                    "words_right": int(right.sum()),
                    "word_ids": labels[row][chosen].tolist(),
                    "matched_right": own[row],
                    "unmatched_right": foreign[row],
                    "media": examples[number].media,
                }

    def metrics(self, items: Predictions) -> dict[str, float]:
        matching = (items["matched_right"].mean() + items["unmatched_right"].mean()) / 2
        return {
            "pretrain/mlm_accuracy": 100 * float(items["words_right"].sum() / items["words"].sum()),
            "pretrain/itm_accuracy": 100 * float(matching),
            "pretrain/texts": float(len(items)),
        }

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """The word that is masked most often in these very items, given every time; and a coin."""
        counts = Counter(word for words in items["word_ids"] for word in words)
        return {
            "pretrain/majority_mlm_accuracy": 100 * max(counts.values()) / sum(counts.values()),
            "pretrain/chance_itm_accuracy": 50.0,
        }

    @staticmethod
    def words(row: dict[str, Any]) -> list[str]:
        told = {True: "told right", False: "told wrong"}
        return [
            row["text"],
            f"masked words filled in: {row['words_right']} of {row['words']}",
            f"its own image: {told[bool(row['matched_right'])]}; another image: {told[bool(row['unmatched_right'])]}",
        ]


def mismatch(owner: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """For N texts with their images (N,): the row of the text that stands in each one's place, 1 where its own.

    A `share` of them, drawn at random, get a text of another image, each of those equally likely.
    """
    foreign = owner[:, None] != owner[None, :]
    rows = torch.arange(len(owner), device=owner.device)
    swapped = (torch.rand(len(owner), device=owner.device) < share) & foreign.any(dim=1)
    if bool(swapped.any()):
        rows[swapped] = torch.multinomial(foreign[swapped].float(), 1)[:, 0]
    return rows, (~swapped).long()


def mask_words(
    input_ids: Tensor, attention_mask: Tensor, share: float, config: Any, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """BERT's masking: of (N, L) token ids a `share`, at least one a text, never [CLS], [SEP] or padding.

    Of the chosen tokens 80 % become [MASK], 10 % a random token, 10 % stay. Returns the masked ids and the labels: the
    token's id where it was chosen, -100 elsewhere. With a `seed` always the same ones.
    """
    generator = torch.Generator().manual_seed(seed) if seed is not None else None

    def uniform() -> Tensor:
        # Drawn on the CPU where a seed fixes it, so that a GPU masks the same words.
        device = input_ids.device if generator is None else torch.device("cpu")
        return torch.rand(input_ids.shape, generator=generator, device=device).to(input_ids.device)

    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = attention_mask.sum(dim=1, keepdim=True) - 1  # [SEP]
    words = (positions > 0) & (positions < last)
    draw = uniform().masked_fill(~words, 2.0)
    chosen = (draw < share) | ((draw == draw.min(dim=1, keepdim=True).values) & words)
    how, random = uniform(), (uniform() * config.vocab_size).long()
    masked = torch.where(chosen & (how < MASKED), config.mask_token_id, input_ids)
    replaced = chosen & (how >= MASKED) & (how < MASKED + (1 - MASKED) * KEPT_OR_RANDOM)
    masked = torch.where(replaced, random, masked)
    return masked, torch.where(chosen, input_ids, IGNORED)
