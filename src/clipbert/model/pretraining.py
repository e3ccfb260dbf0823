"""The pretraining heads: masked language modelling and image-text matching (section 3.3 of the paper)."""

from dataclasses import dataclass

from torch import Tensor
from transformers.models.bert.modeling_bert import BertPreTrainingHeads
from transformers.utils import ModelOutput

from clipbert.model.configuration import ClipBertConfig
from clipbert.model.dual_encoder import ContrastiveHead
from clipbert.model.heads import LanguageModelHeadMixin
from clipbert.model.inputs import check_labels
from clipbert.model.losses import IGNORED, aggregate, cross_entropy
from clipbert.model.modeling import ClipBertModel


@dataclass
class ClipBertPreTrainingOutput(ModelOutput):
    """`loss` (), its parts `mlm_loss` and `itm_loss` (), `mlm_logits` (N, K, L, vocabulary), `itm_logits` (N, K, 2)."""

    loss: Tensor | None = None
    mlm_loss: Tensor | None = None
    itm_loss: Tensor | None = None
    mlm_logits: Tensor | None = None
    itm_logits: Tensor | None = None


class ClipBertForPreTraining(LanguageModelHeadMixin):
    """Masked language modelling and image-text matching; training keeps `config.pixel_random_sampling_size` cells."""

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__(config)
        self.clipbert = ClipBertModel(config)
        self.cls = BertPreTrainingHeads(config)
        self.contrast = None if config.projection_size is None else ContrastiveHead(config)
        self.post_init()

    def encode_video(self, pixel_values: Tensor) -> Tensor:
        """Visual tokens (B, K, V, hidden); while training only the random cells that pretraining keeps."""
        keep = self.config.pixel_random_sampling_size if self.training else None
        return self.clipbert.encode_video(pixel_values, keep)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        texts_per_video: Tensor | None = None,
        visual_embeds: Tensor | None = None,
        mlm_labels: Tensor | None = None,
        itm_labels: Tensor | None = None,
    ) -> ClipBertPreTrainingOutput:
        """Arguments as `ClipBertModel.forward`.

        `mlm_labels` (N, L): the masked tokens' ids, -100 elsewhere (and everywhere in an unmatched text);
        `itm_labels` (N,): 1 for a matched text. The loss is the sum of the parts whose labels are given: the MLM term
        averages over masked tokens and clips, the ITM term joins the clips by `config.score_aggregation`.
        """
        if visual_embeds is None and pixel_values is not None:
            visual_embeds, pixel_values = self.encode_video(pixel_values), None
        output = self.clipbert(pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds)
        assert input_ids is not None
        text_states = output.last_hidden_state[:, :, : input_ids.shape[1]]
        mlm_logits, itm_logits = self.cls(text_states, output.pooler_output)
        mlm_loss = itm_loss = loss = None
        if mlm_labels is not None:
            check_labels(mlm_labels, "mlm_labels", tuple(input_ids.shape), self.config.vocab_size, ignored=IGNORED)
            each = mlm_labels[:, None].expand(mlm_logits.shape[:3])
            loss = mlm_loss = cross_entropy(mlm_logits.flatten(0, 2), each.flatten(), self.label_smoothing)
        if itm_labels is not None:
            check_labels(itm_labels, "itm_labels", (input_ids.shape[0],), classes=2)
            matching = aggregate(itm_logits, self.config.score_aggregation)
            itm_loss = cross_entropy(matching, itm_labels, self.label_smoothing)
            loss = itm_loss if loss is None else loss + itm_loss
        return ClipBertPreTrainingOutput(
            loss=loss, mlm_loss=mlm_loss, itm_loss=itm_loss, mlm_logits=mlm_logits, itm_logits=itm_logits
        )
