"""Text half and projections of a pretrained dual encoder: CLIP, SigLIP or SigLIP 2.

The vision half is the backbone of `ClipBertModel`, which both the dual encoder and the cross-encoder read. What belongs
to the dual encoder travels in the same tensors as what belongs to the cross-encoder, so that every function that takes
texts or encoded videos works with both: the dual encoder's tokens are the last columns of `input_ids`, and a clip's
embedding is the last rows of `visual_embeds`.
"""

import torch
import transformers
from torch import Tensor, nn

from clipbert.model.activation_checkpointing import run_in_microbatches
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.encoder_configs import dual_text_config
from clipbert.model.inputs import can_read_values, check_text

TEXT_ENCODERS = {"clip": "CLIPTextModel", "siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}


class PretrainedDualEncoder(nn.Module):
    """Text encoder, projections and temperature of CLIP, SigLIP or SigLIP 2.

    Attributes:
        text_encoder: a `CLIPTextModel`, `SiglipTextModel` or `Siglip2TextModel`.
        microbatches: number of parts in which texts are encoded, see `set_microbatches`.
    """

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        assert config.dual_encoder is not None
        assert config.vision is not None
        assert config.projection_size is not None
        self.kind, self.size = config.dual_encoder["model_type"], config.projection_size
        self.rows = config.embedding_tokens
        text = dual_text_config(config.dual_encoder)
        self.text_encoder = getattr(transformers, TEXT_ENCODERS[self.kind])._from_config(text)
        self.text_length = config.dual_text_length
        self.text_projection: nn.Module = nn.Identity()
        self.visual_projection: nn.Module = nn.Identity()
        if self.kind == "clip":
            channels = config.vision.get("hidden_size", transformers.CLIPVisionConfig().hidden_size)
            self.text_projection = nn.Linear(text.hidden_size, self.size, bias=False)
            self.visual_projection = nn.Linear(channels, self.size, bias=False)
        else:
            self.logit_bias = nn.Parameter(torch.zeros(()))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.microbatches, self.frozen = 1, False

    def freeze(self) -> None:
        """Stop training: no gradients, and evaluation mode in `train()`."""
        self.frozen = True
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PretrainedDualEncoder":
        return super().train(mode and not self.frozen)

    def split_texts(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the cross-encoder's `input_ids` and `attention_mask` (N, L), and the dual encoder's ids.

        Args:
            input_ids, attention_mask: (N, L + text_length) of the processor.

        Raises:
            ValueError: too few columns.
        """
        length = self.text_length
        if input_ids.ndim != 2 or input_ids.shape[1] <= length:
            raise ValueError(
                f"input_ids has shape {tuple(input_ids.shape)}: expected (texts, length) with the tokens of the "
                f"cross-encoder followed by {length} of the dual encoder, as the processor of this model makes them."
            )
        mask = attention_mask
        if mask is not None and mask.shape == input_ids.shape:  # another shape is an error of `check_text`
            mask = mask[:, :-length]
        return input_ids[:, :-length], mask, input_ids[:, -length:]

    def append_embeddings(self, visual_embeds: Tensor, frames: Tensor) -> Tensor:
        """Return visual tokens with the clips' embeddings in their last rows, (B, K, V + rows, hidden).

        Args:
            visual_embeds: (B, K, V, hidden) of the cross-encoder.
            frames: (B, K, T, channels), the pooled output of the vision half.
        """
        unit = nn.functional.normalize(self.image_features(frames), dim=-1)
        embedding = unit.mean(dim=2)
        padding = self.rows * visual_embeds.shape[-1] - self.size
        rows = nn.functional.pad(embedding, (0, padding)).unflatten(-1, (self.rows, -1))
        return torch.cat([visual_embeds, rows], dim=2)

    def split_embeddings(self, visual_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, K, V, hidden) and the clips' embeddings (B, K, P) that were appended to them.

        Raises:
            ValueError: too few rows.
        """
        if visual_embeds.ndim != 4 or visual_embeds.shape[2] <= self.rows:
            raise ValueError(
                f"visual_embeds has shape {tuple(visual_embeds.shape)}: expected (videos, clips, tokens, hidden) from "
                "encode_video of this model."
            )
        rows = visual_embeds[:, :, -self.rows :].flatten(2)[..., : self.size]
        return visual_embeds[:, :, : -self.rows], rows

    def image_features(self, pooled: Tensor) -> Tensor:
        """Return the embeddings (..., P) of pooled outputs (..., channels): `get_image_features` of transformers."""
        features: Tensor = self.visual_projection(pooled)
        return features

    def text_features(self, ids: Tensor) -> Tensor:
        """Return the embeddings (N, P) of texts (N, text_length): `get_text_features` of transformers.

        CLIP reads the state of the end token, which no later position changes; SigLIP that of the last position, of
        texts padded to `text_length`. So neither needs a mask.

        Raises:
            ValueError: an id beyond the vocabulary.
        """
        check_text(ids, None, self.text_encoder.config)
        if self.kind == "clip" and can_read_values(ids):
            ids = ids[:, : self._longest(ids)]
        return run_in_microbatches(self._text_features, self.microbatches, ids)

    def _text_features(self, ids: Tensor) -> Tensor:
        features: Tensor = self.text_projection(self.text_encoder(input_ids=ids).pooler_output)
        return features

    def _longest(self, ids: Tensor) -> int:
        """Return the number of positions up to the last end token."""
        end = self.text_encoder.config.eos_token_id
        # configurations from before transformers 4.31 have 2, and the end token is the one with the highest id
        at = ids.argmax(dim=1) if end == 2 else (ids == end).int().argmax(dim=1)
        return int(at.max()) + 1

    def video_features(self, embeddings: Tensor) -> Tensor:
        """Return unit vectors (B, P) of clips' embeddings (B, K, P)."""
        return nn.functional.normalize(embeddings.mean(dim=1), dim=-1)

    def similarity(self, text_features: Tensor, video_features: Tensor) -> Tensor:
        """Return the logits (N, B) of unit vectors (N, P) and (B, P): `logits_per_text` of transformers."""
        logits = self.logit_scale.exp() * text_features @ video_features.T
        return logits + self.logit_bias if self.kind != "clip" else logits
