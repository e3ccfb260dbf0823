"""Pretraining: masked language modeling and image-text matching (section 3.3 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers.models.bert.modeling_bert import BertPreTrainingHeads
from transformers.utils import ModelOutput, can_return_tuple

from clipbert.model.configuration import ClipBertConfig
from clipbert.model.dual_encoder import ContrastiveHead
from clipbert.model.heads import LanguageModelHeadMixin
from clipbert.model.inputs import check_labels
from clipbert.model.losses import IGNORED, aggregate, cross_entropy
from clipbert.model.modeling import ClipBertModel


@dataclass
class ClipBertPreTrainingOutput(ModelOutput):
    """Output of the pretraining model.

    Attributes:
        loss: (), the sum of the losses with labels.
        mlm_loss: (), masked language modeling.
        itm_loss: (), image-text matching.
        mlm_logits: (N, K, L, vocabulary), without meaning at padding; with `mlm_positions` (P, K, vocabulary).
        itm_logits: (N, K, 2), label 1 is matched.
    """

    loss: Tensor | None = None
    mlm_loss: Tensor | None = None
    itm_loss: Tensor | None = None
    mlm_logits: Tensor | None = None
    itm_logits: Tensor | None = None


class ClipBertForPreTraining(LanguageModelHeadMixin):
    """ClipBERT with the heads for masked language modeling and image-text matching.

    Training keeps `config.pixel_random_sampling_size` random grid cells of each clip.
    """

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__(config)
        self.clipbert = ClipBertModel(config)
        self.cls = BertPreTrainingHeads(config)
        self.contrast = None if config.projection_size is None else ContrastiveHead(config)
        self.post_init()

    def encode_video(self, pixel_values: Tensor) -> Tensor:
        """Return visual tokens (B, K, V, hidden); in training mode of random grid cells only."""
        keep = self.config.pixel_random_sampling_size if self.training else None
        return self.clipbert.encode_video(pixel_values, keep)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        texts_per_video: Tensor | None = None,
        visual_embeds: Tensor | None = None,
        mlm_labels: Tensor | None = None,
        itm_labels: Tensor | None = None,
        text_lengths: Sequence[int] | None = None,
        mlm_positions: Tensor | None = None,
    ) -> ClipBertPreTrainingOutput:
        """Predict masked tokens and whether each text matches its video.

        The MLM loss averages over masked tokens and clips; the ITM loss aggregates the clips by
        `config.score_aggregation`.

        Args:
            pixel_values: as in `ClipBertModel.forward`, like the next four.
            input_ids: (N, L).
            attention_mask: (N, L).
            texts_per_video: (B,).
            visual_embeds: (B, K, V, hidden).
            mlm_labels: (N, L) ids of the masked tokens, -100 elsewhere and in unmatched texts.
            itm_labels: (N,), 1 for a matched text.
            text_lengths: as in `ClipBertModel.pool_pairs`.
            mlm_positions: (P,) positions of all labeled tokens in the flattened `mlm_labels`. The words are then
                predicted at these alone, which the wide output layer makes much cheaper; None: at all.

        Raises:
            ValueError: naming the argument, its shape and what was expected.
        """
        if visual_embeds is None and pixel_values is not None:
            visual_embeds, pixel_values = self.encode_video(pixel_values), None
        input_ids, mask, visual, _ = self.clipbert.prepare_inputs(
            pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds
        )
        states = self.clipbert.encode_texts_of_pairs(input_ids, mask, visual, text_lengths)
        pooled = self.clipbert.pooler(states[:, :, :1].flatten(0, 1)).unflatten(0, states.shape[:2])
        if mlm_positions is not None:
            states = states.transpose(1, 2).flatten(0, 1).index_select(0, mlm_positions)
        mlm_logits, itm_logits = self.cls(states, pooled)
        mlm_loss = itm_loss = loss = None
        if mlm_labels is not None:
            check_labels(mlm_labels, "mlm_labels", tuple(input_ids.shape), self.config.vocab_size, ignored=IGNORED)
            if mlm_positions is None:
                each = mlm_labels[:, None].expand(mlm_logits.shape[:3])
            else:
                each = mlm_labels.flatten().index_select(0, mlm_positions)[:, None].expand(mlm_logits.shape[:2])
            logits = mlm_logits.reshape(-1, mlm_logits.shape[-1])
            loss = mlm_loss = cross_entropy(logits, each.flatten(), self.label_smoothing)
        if itm_labels is not None:
            check_labels(itm_labels, "itm_labels", (input_ids.shape[0],), classes=2)
            matching = aggregate(itm_logits, self.config.score_aggregation)
            itm_loss = cross_entropy(matching, itm_labels, self.label_smoothing)
            loss = itm_loss if loss is None else loss + itm_loss
        return ClipBertPreTrainingOutput(
            loss=loss, mlm_loss=mlm_loss, itm_loss=itm_loss, mlm_logits=mlm_logits, itm_logits=itm_logits
        )
