"""Video captioning: next-token loss on captions, one generated caption per video (an application the paper names)."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from clipbert.config.tasks import CaptioningParams
from clipbert.console import console
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.evaluation.metrics.captions import (
    MeteorUnavailable,
    best_constant,
    bleu4,
    bleu4_counts,
    cider,
    meteor,
    rouge_l,
)
from clipbert.evaluation.metrics.intervals import OfSums, Ratio, Statistic
from clipbert.model import ClipBertForCaptioning
from clipbert.model.weights.card import CardText
from clipbert.tasks import register_task
from clipbert.tasks.base import Evaluator, Objective, Task
from clipbert.tasks.batch import Batch, Encoded, Example, Predictions, Tokenize
from clipbert.tasks.contrastive import contrastive_loss, projection_size
from clipbert.tasks.examples import Examples
from clipbert.tasks.presentation import BLANK, CLIPS, GENERATION, Headline, LinePlot, Report, Serving
from clipbert.tasks.scoring import write_captions


class CaptioningExamples(Examples):
    """One caption of each video per step."""

    kind = "caption"

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        return [int(generator.integers(len(example.texts)))]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[int]:
        """Return zeros, which the loss does not read: the caption itself is the label."""
        return [0] * len(chosen)


class CaptioningObjective(Objective):
    """Next-token cross-entropy, plus the contrastive loss."""

    model_class = ClipBertForCaptioning
    generates_text = True

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        return {"projection_size": projection_size(self.params.contrastive_weight)}

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        visual_embeds = batch.encode_video(model)
        writing = model(
            visual_embeds=visual_embeds,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            labels=batch.input_ids.masked_fill(batch.attention_mask == 0, -100),
            text_lengths=batch.text_lengths,
            loss_only=True,
        ).loss
        writing = scale_loss_for_ddp(writing, batch.attention_mask[:, 1:].sum())
        if self.params.contrastive_weight == 0:
            return writing, {}
        contrastive, _ = contrastive_loss(
            model, visual_embeds, batch.input_ids, batch.attention_mask, batch, batch.text_lengths
        )
        total = writing + self.params.contrastive_weight * contrastive
        return total, {"writing": writing.detach(), "contrastive": contrastive.detach()}


class CaptioningEvaluator(Evaluator):
    """CIDEr-D, BLEU-4 and ROUGE-L of one caption per video against all captions of the video."""

    main_metric = "captioning/cider"
    blank_frame_metrics = ("captioning/cider", "captioning/bleu4", "captioning/rouge_l")
    task_settings = tuple(CaptioningParams().generation())

    def item_ids(self, examples: list[Example]) -> list[str]:
        return [example.key for example in examples]

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Yield the generated caption of each video; the score is CIDEr-D / 10."""
        some_ids, some_mask = tokenize([examples[0].texts[0]])
        start, end = int(some_ids[0, 0]), int(some_ids[0, int(some_mask[0].sum()) - 1])
        captions: list[str] = []
        confidences: list[float] = []
        rows = max(1, batch_size // self.params.beams)
        for first in range(0, len(examples), rows):
            visual_embeds = videos.of(example.key for example in examples[first : first + rows])
            ids, scores = write_captions(model, visual_embeds, start, end, self.params.generation())
            captions += tokenize.decode(ids)
            confidences += scores
        references = [example.texts for example in examples]
        scores_of = cider(captions, references)
        for example, caption, confidence, score in zip(examples, captions, confidences, scores_of, strict=True):
            yield {
                "item_id": example.key,
                "score": float(score) / 10,
                "chance": 0.0,
                "predicted": caption,
                "references": example.texts,
                "log_probability": confidence,
                **example.place,
            }

    def metrics(self, items: Predictions) -> dict[str, float]:
        """Return CIDEr-D, BLEU-4 and ROUGE-L times 100, as papers report them (CIDEr-D: 0 to 1000)."""
        found = {name: statistic.value() for name, statistic in self.statistics(items).items()}
        return found | {
            "captioning/different": float(items["predicted"].nunique()),
            "captioning/videos": float(len(items)),
        }

    def statistics(self, items: Predictions) -> dict[str, Statistic]:
        captions, references = items["predicted"].tolist(), _references(items)
        media = items["media"].to_numpy()
        return {
            "captioning/cider": Ratio(items["score"], media, scale=1000),
            "captioning/bleu4": OfSums(bleu4_counts(captions, references), media, bleu4),
            "captioning/rouge_l": Ratio(rouge_l(captions, references), media),
        }

    def test_metrics(self, items: Predictions, blank_items: Predictions, train: list[Example]) -> dict[str, float]:
        """Return METEOR of the model, of the best constant caption and of blank frames, where there is Java."""
        references = _references(items)
        constant = [self._best_constant(items, train)[0]] * len(items)
        blank = blank_items.set_index("item_id").loc[items["item_id"], "predicted"].tolist()
        try:
            own, fixed, unseen = meteor([items["predicted"].tolist(), constant, blank], references)
        except MeteorUnavailable as error:
            console.print(f"{self.name}: {error}; the metrics lack captioning/meteor.")
            return {}
        return {
            "captioning/meteor": 100 * own,
            "captioning/constant_meteor": 100 * fixed,
            "captioning/blank_frames_meteor": 100 * unseen,
        }

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """Return the metrics of the training caption with the highest mean CIDEr-D, given to every video."""
        references = _references(items)
        constant, score = self._best_constant(items, train)
        captions = [constant] * len(references)
        return {
            "captioning/constant_cider": 100 * score,
            "captioning/constant_bleu4": 100
            * float(bleu4(bleu4_counts(captions, references).sum(0, keepdims=True))[0]),
            "captioning/constant_rouge_l": 100 * float(rouge_l(captions, references).mean()),
        }

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the best constant caption, given to every video."""
        references = _references(items)
        constant, _ = self._best_constant(items, train)
        return {"constant": cider([constant] * len(references), references) / 10}

    def _best_constant(self, items: Predictions, train: list[Example]) -> tuple[str, float]:
        """Return the best constant caption of the training split for these items, and its mean CIDEr-D."""
        texts = tuple(text for example in train for text in example.texts)
        return _best_constant(texts, tuple(tuple(some) for some in items["references"]))


def _references(items: Predictions) -> list[list[str]]:
    """Return the reference captions of each row; in a file they are arrays."""
    return [list(some) for some in items["references"]]


@lru_cache(maxsize=1)  # metrics and item scores need the same one
def _best_constant(texts: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> tuple[str, float]:
    return best_constant(list(texts), [list(some) for some in references])


class CaptioningReport(Report):
    """CIDEr-D of the test videos; the generated caption next to two reference captions."""

    title = "Video captioning"
    headlines = (
        Headline(
            "CIDEr",
            "cider",
            (("best constant caption", "constant_cider"), (BLANK, "blank_frames_cider")),
            row="captioning CIDEr",
            percent=False,
        ),
        Headline("BLEU-4", "bleu4", (("best constant caption", "constant_bleu4"), (BLANK, "blank_frames_bleu4"))),
        Headline(
            "ROUGE-L", "rouge_l", (("best constant caption", "constant_rouge_l"), (BLANK, "blank_frames_rouge_l"))
        ),
        Headline(
            "METEOR",
            "meteor",
            (("best constant caption", "constant_meteor"), (BLANK, "blank_frames_meteor")),
            optional=True,
        ),
        Headline("different captions", "different", (("videos", "videos"),), percent=False),
    )
    baselines: ClassVar = {"constant_score": "best constant caption"}
    plot = LinePlot(
        "CIDEr of the test videos",
        table="cider",
        x="rank",
        columns={"cider": "this model", "blank_frames": BLANK},
        xlabel="test videos, the best caption first",
        ylabel="CIDEr",
    )
    groups = ("Upper half by CIDEr", "Lower half by CIDEr")
    score_scale, score_unit = 10.0, " CIDEr"

    def tables(self, items: pd.DataFrame, blank_items: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return rank, cider and blank_frames: CIDEr-D times 100 of each video's caption, each column sorted."""
        ranked = [1000 * np.sort(rows["score"].to_numpy())[::-1] for rows in (items, blank_items)]
        table = pd.DataFrame({"rank": np.arange(1, len(ranked[0]) + 1), "cider": ranked[0], "blank_frames": ranked[1]})
        return {"cider": table}

    def is_success(self, items: pd.DataFrame) -> "pd.Series[bool]":
        """Return the half of the captions with the higher scores: a caption is not simply right or wrong."""
        return items["score"] >= items["score"].median()

    def lines(self, row: dict[str, Any]) -> list[str]:
        references = [f"caption: {text}" for text in row["references"][:2]]
        return [row["predicted"], f"CIDEr {1000 * row['score']:.0f}", *references]


@register_task
class Captioning(Task):
    """Describes a video in a sentence."""

    name = "captioning"
    params_class = CaptioningParams
    examples_class = CaptioningExamples
    objective_class = CaptioningObjective
    evaluator_class = CaptioningEvaluator
    report = CaptioningReport()
    card = CardText(
        title="video captioning",
        about="It describes a video in a sentence.",
        pipeline_tag="video-text-to-text",
        tags=("video-captioning",),
        metrics=("cider", "bleu", "rouge"),
        example='describe = pipeline("captioning", "{folder}")\ndescribe("a.mp4")',
    )
    serving = Serving(
        inputs={"video": "string"},
        outputs={"caption": "string", "score": "double"},
        example={"video": "data/videos/example.mp4"},
        params=CLIPS | GENERATION,
    )
