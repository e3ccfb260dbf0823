"""Text-to-video retrieval (paper, section 3.3).

The cross-encoder is trained to tell matched from unmatched pairs. The dual encoder, trained with a contrastive loss,
adds its similarity to the score, finds hard negatives, and can rank a gallery before the cross-encoder reranks it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipbert.config.tasks import RetrievalParams
from clipbert.distributed.collectives import RankRows, scale_loss_for_ddp
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertForRetrieval
from clipbert.model.weights.card import CardText
from clipbert.tasks import register_task
from clipbert.tasks.base import Objective, Task
from clipbert.tasks.batch import Batch, Example, Tokenize
from clipbert.tasks.contrastive import contrastive_loss, projection_size, same_items
from clipbert.tasks.examples import Examples
from clipbert.tasks.presentation import CLIPS, Serving
from clipbert.tasks.retrieval_evaluation import RetrievalEvaluator, RetrievalReport


class RetrievalExamples(Examples):
    """One caption of each video per step; the captions of the other videos in the batch are its negatives."""

    kind = "caption"

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        return [int(generator.integers(len(example.texts)))]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[int]:
        return [1] * len(chosen)

    def prepare(self, batch: Batch, seeds: list[int], tokenize: Tokenize, config: Any) -> Batch:
        """Add the random numbers that choose the negatives of each video."""
        draws = [np.random.default_rng(seed).random(self.params.negatives) for seed in seeds]
        return replace(batch, draws=torch.from_numpy(np.stack(draws)))


class RetrievalObjective(Objective):
    """Cross-entropy over matched and unmatched pairs, plus the contrastive loss of the dual encoder."""

    model_class = ClipBertForRetrieval
    uses_dual_encoder = True
    late_part = "cross-encoder"

    @property
    def late_start(self) -> float | None:
        return self.params.cross_encoder_start or None

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        size = projection_size(self.params.contrastive_weight)
        fields = {"projection_size": size, "cross_encoder": self.params.cross_encoder}
        return fields | {"video_head": self.params.video_head}

    def prepare_model(self, model: Any) -> None:
        """Freeze the dual encoder or the cross-encoder.

        A cross-encoder that starts later is frozen until then, and adds nothing to the score.

        Raises:
            ClipBertError: the parameters leave no score or nothing to train, or the model has no pretrained dual
                encoder to freeze.
        """
        params, pretrained = self.params, model.pretrained is not None
        if not params.cross_encoder and model.contrast is None:
            raise ClipBertError(
                "tasks.retrieval.cross_encoder is false and tasks.retrieval.contrastive_weight is 0: nothing scores a "
                "text and a video. Set one of the two, or model.dual_encoder."
            )
        if params.freeze_dual_encoder and not pretrained:
            raise ClipBertError(
                "tasks.retrieval.freeze_dual_encoder is true, but this model has no pretrained dual encoder. Set "
                "model.dual_encoder to the folder or hub id of a CLIP or SigLIP model, or freeze_dual_encoder to false."
            )
        if pretrained and params.contrastive_weight == 0 and not params.freeze_dual_encoder:
            raise ClipBertError(
                "tasks.retrieval.contrastive_weight is 0, so nothing trains the text half of model.dual_encoder. Set "
                "tasks.retrieval.freeze_dual_encoder to true, or a weight above 0."
            )
        if params.freeze_dual_encoder and not params.cross_encoder and params.epochs > 0:
            raise ClipBertError(
                "tasks.retrieval.freeze_dual_encoder is true and tasks.retrieval.cross_encoder false: nothing is "
                "left to train. Set one of them the other way, or tasks.retrieval.epochs to 0 for the zero-shot model."
            )
        self._check_start(model)
        if params.freeze_dual_encoder:
            model.freeze_dual_encoder()
        trained = _trainable_names(model)
        if not params.cross_encoder or params.cross_encoder_start:
            model.freeze_cross_encoder()
        self.late_part_trained = not params.cross_encoder_start
        if params.cross_encoder_start:
            model.start_at_zero_shot()
            self.late_parameters = trained - _trainable_names(model)

    def _check_start(self, model: Any) -> None:
        """Check that a dual encoder is trained before `cross_encoder_start`.

        Raises:
            ClipBertError: naming the parameter that contradicts it.
        """
        params, start = self.params, self.params.cross_encoder_start
        if not start:
            return
        found = None
        if not params.cross_encoder:
            found = "tasks.retrieval.cross_encoder is false: no cross-encoder is trained"
        elif model.contrast is None:
            found = "tasks.retrieval.contrastive_weight is 0: the model has no dual encoder"
        elif params.freeze_dual_encoder:
            found = "tasks.retrieval.freeze_dual_encoder is true: nothing is trained before"
        if found is not None:
            raise ClipBertError(
                f"tasks.retrieval.cross_encoder_start is {start}, but {found}. Set cross_encoder_start to 0, or change "
                "the other parameter."
            )

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        videos = batch.frames.shape[0]
        visual_embeds = batch.encode_video(model)
        parts: dict[str, Tensor] = {}
        similarity = None
        if model.contrast is not None:
            parts["contrastive"], similarity = contrastive_loss(
                model, visual_embeds, batch.input_ids, batch.attention_mask, batch, batch.text_lengths
            )
        if not model.config.cross_encoder or not self.late_part_trained:
            return self.params.contrastive_weight * parts["contrastive"], {"contrastive": parts["contrastive"].detach()}
        # Each video is paired with its own text and with `negatives` texts of other videos, of any rank.
        input_ids, attention_mask = batch.all_texts
        own = torch.arange(len(input_ids), device=input_ids.device)[RankRows(batch.videos_per_rank).own]
        same = same_items(batch, RankRows(batch.videos_per_rank))
        unmatched = self.draw_negatives(
            own, len(input_ids), similarity, batch.draws, None if same is None else same[own]
        )
        rows = torch.cat([own[:, None], unmatched], dim=1).flatten()
        labels = torch.zeros(videos, 1 + unmatched.shape[1], dtype=torch.long, device=rows.device)
        labels[:, 0] = 1
        pairs = model(
            visual_embeds=visual_embeds,
            input_ids=input_ids[rows],
            attention_mask=attention_mask[rows],
            texts_per_video=torch.full_like(batch.texts_per_video, labels.shape[1]),
            text_lengths=batch.pair_lengths(unmatched.shape[1]),
        )
        logits = pairs.logits.float()
        if similarity is not None:
            owner = torch.arange(videos, device=rows.device).repeat_interleave(labels.shape[1])
            logits = torch.stack([logits[:, 0], logits[:, 1] + similarity.detach()[rows, owner]], dim=1)
        matching = F.cross_entropy(logits, labels.flatten(), label_smoothing=model.label_smoothing)
        parts["matching"] = scale_loss_for_ddp(matching, labels.numel())
        total = parts["matching"]
        if "contrastive" in parts and not self.params.freeze_dual_encoder:
            total = total + self.params.contrastive_weight * parts["contrastive"]
        return total, {name: value.detach() for name, value in parts.items()}

    def draw_negatives(
        self, own: Tensor, texts: int, similarity: Tensor | None, draws: Tensor | None, same: Tensor | None = None
    ) -> Tensor:
        """Return the rows (B, negatives) of texts of other videos.

        Each is drawn without replacement: with probability `hard_negatives` from the softmax of the similarities,
        otherwise uniformly. Texts of what is shown again in the batch are drawn only where no other is left.

        Args:
            own: (B,) the row of each video's own text among the `texts` of the batch.
            similarity: (texts, B).
            draws: (B, negatives) in [0, 1), the random numbers.
            same: (B, texts) whether a text belongs to what a video shows (`same_items`).
        """
        negatives = min(self.params.negatives, texts - 1)
        is_own = own[:, None] == torch.arange(texts, device=own.device)
        weights = (~is_own).double() / max(1, texts - 1)
        if similarity is not None:
            hard = similarity.detach().double().T.masked_fill(is_own, float("-inf")).softmax(dim=1)
            weights = (1 - self.params.hard_negatives) * weights + self.params.hard_negatives * hard
        if same is not None:
            weights = weights.masked_fill(same, 0.0)
        weights = weights + 1e-6 * ~is_own
        chosen: list[Tensor] = []
        for turn in range(negatives):
            assert draws is not None
            cumulative = weights.cumsum(dim=1)
            threshold = draws[:, turn, None] * cumulative[:, -1:]
            at = torch.searchsorted(cumulative, threshold, right=True).clamp(max=texts - 1)
            chosen.append(at)
            weights = weights.scatter(1, at, 0.0)
        return torch.cat(chosen, dim=1) if chosen else own.new_empty(len(own), 0)


def _trainable_names(model: Any) -> frozenset[str]:
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


@register_task
class Retrieval(Task):
    """Finds the video that a text describes."""

    name = "retrieval"
    params_class = RetrievalParams
    examples_class = RetrievalExamples
    objective_class = RetrievalObjective
    evaluator_class = RetrievalEvaluator
    report = RetrievalReport()
    card = CardText(
        title="text-to-video retrieval",
        about="It scores how well a text describes a video, and so finds the videos for a text.",
        pipeline_tag="feature-extraction",
        tags=("video-retrieval",),
        metrics=("recall",),
        example='search = pipeline("retrieval", "{folder}")\nsearch("a red circle", ["a.mp4", "b.mp4"])',
    )
    serving = Serving(
        inputs={"video": "string", "text": "string"},
        outputs={"score": "double"},
        example={"video": "data/videos/example.mp4", "text": "a red square moves to the left"},
        params=CLIPS,
    )
