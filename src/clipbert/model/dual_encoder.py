"""Dual encoder: comparable vectors of a text alone and of a video alone.

They come from the one BERT encoder, or in retrieval from a pretrained dual encoder (`config.dual_encoder`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from clipbert.model.activation_checkpointing import run_slices
from clipbert.model.base import ClipBertPreTrainedModel
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.inputs import check_frame_features, check_text, check_visual_embeds
from clipbert.model.modeling import ClipBertModel
from clipbert.model.packing import Packing, TextTokens
from clipbert.model.pretrained_dual_encoder import PretrainedDualEncoder
from clipbert.model.video_head import INITIAL_LOGIT_SCALE, MAX_SCALE, DirectVideoHead

NO_HEAD = "projection_size is None: this model has no contrastive projections; set it to have them."


class ContrastiveHead(nn.Module):
    """Text and video projections with a learned temperature (CLIP, Radford et al. 2021)."""

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        assert config.projection_size is not None
        self.text_projection = nn.Linear(config.hidden_size, config.projection_size, bias=False)
        self.video_projection = nn.Linear(config.hidden_size, config.projection_size, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    def project_text(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return unit vectors (N, P): the projected mean of text states (N, L, hidden) over unpadded tokens."""
        weights = mask.to(states.dtype)[..., None]
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(self.text_projection(mean), dim=-1)

    def project_video(self, states: Tensor) -> Tensor:
        """Return unit vectors (B, P): the projected mean of clip states (B, K, V, hidden) over tokens and clips."""
        return nn.functional.normalize(self.video_projection(states.mean(dim=(1, 2))), dim=-1)

    def scale(self) -> Tensor:
        """Return the inverse temperature (), at most `MAX_SCALE`."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    def similarity(self, text_features: Tensor, video_features: Tensor) -> Tensor:
        """Return scaled cosine similarities (N, B) of unit vectors (N, P) and (B, P)."""
        return self.scale() * text_features @ video_features.T


def make_contrast(config: ClipBertConfig, channels: int) -> ContrastiveHead | DirectVideoHead | None:
    """Return the dual encoder of a configuration, unless it is pretrained; None where there is none.

    Args:
        channels: of the backbone's last feature map.
    """
    if config.projection_size is None or config.dual_encoder is not None:
        return None
    return DirectVideoHead(config, channels) if config.video_head == "direct" else ContrastiveHead(config)


class ClipBertDualEncoder(ClipBertPreTrainedModel):
    """Base class of the task models. With `config.projection_size` it embeds texts and videos separately.

    Attributes:
        contrast: the dual encoder's projections, its direct video head, or the pretrained dual encoder; None without a
            dual encoder.
        label_smoothing: probability mass of each label that the losses spread evenly over all classes. Set by a
            training, not saved; `answer_loss` "bce" and the ranking loss ignore it.
    """

    label_smoothing: float = 0.0

    clipbert: ClipBertModel
    contrast: ContrastiveHead | DirectVideoHead | PretrainedDualEncoder | None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ContrastiveHead | DirectVideoHead):
            init.constant_(module.logit_scale, INITIAL_LOGIT_SCALE)
        elif isinstance(module, PretrainedDualEncoder):
            init.constant_(module.logit_scale, INITIAL_LOGIT_SCALE)
            if module.kind != "clip":
                init.zeros_(module.logit_bias)

    @property
    def pretrained(self) -> PretrainedDualEncoder | None:
        """The pretrained dual encoder, if the model has one."""
        return self.contrast if isinstance(self.contrast, PretrainedDualEncoder) else None

    @property
    def direct(self) -> DirectVideoHead | None:
        """The direct video head, if the model has one."""
        return self.contrast if isinstance(self.contrast, DirectVideoHead) else None

    def frame_features(self, pixel_values: Tensor) -> Tensor:
        """Return what `encode_features` needs of frames (N, 3, H, W) with a frozen backbone.

        Returns:
            The feature maps (N, channels, h, w); where only a direct video head reads them, their means over the cells
            (N, channels).

        Raises:
            ValueError: frames of a wrong shape or type, or a pretrained dual encoder, which needs more than them.
        """
        if self.pretrained is not None:
            raise ValueError("dual_encoder is set: features of frames are not enough for a pretrained dual encoder.")
        maps = self.clipbert.feature_maps(pixel_values[None, None])[0, 0]
        return maps if self.direct is None or self.config.cross_encoder else maps.mean(dim=(-2, -1))

    def encode_features(self, frame_features: Tensor) -> Tensor:
        """Return what `encode_video` returns, from features of frames (B, K, T, ...).

        Args:
            frame_features: rows of `frame_features`, of T frames of K clips of B videos.

        Raises:
            ValueError: another shape than that of this model's features.
        """
        return run_slices(
            lambda part: self._encode_features(frame_features[part]),
            frame_features.shape[0],
            self.clipbert.microbatches,
        )

    def _encode_features(self, frame_features: Tensor) -> Tensor:
        if self.direct is None:
            return self.clipbert.encode_features(frame_features)
        maps = self.config.cross_encoder
        check_frame_features(frame_features, self.clipbert.vision.channels, maps)
        tokens = self.clipbert.encode_features(frame_features) if maps else None
        pooled = frame_features.to(self.direct.norm.weight.dtype)
        return self.direct.append_embeddings(tokens, pooled.mean(dim=(-2, -1)) if maps else pooled)

    def encode_video(self, pixel_values: Tensor) -> Tensor:
        """Return visual tokens (B, K, V, hidden) of frames (B, K, T, 3, H, W), see `ClipBertModel.encode_video`.

        With a pretrained dual encoder or a direct video head, the clips' embeddings are in additional rows at their end
        (`append_embeddings` of both); every method of the model that takes `visual_embeds` knows them.
        """
        if self.direct is not None:
            maps = self.clipbert.feature_maps(pixel_values)
            return self.encode_features(maps if self.config.cross_encoder else maps.mean(dim=(-2, -1)))
        if self.pretrained is None:
            return self.clipbert.encode_video(pixel_values)
        return self.pretrained.append_embeddings(*self.clipbert.encode_video_and_frames(pixel_values))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return unit vectors (N, P) of texts (N, L): the encoder over the text alone, mean over tokens, projection.

        With a pretrained dual encoder, the normalized features of its text encoder.

        Raises:
            ValueError: the configuration has no `projection_size`, or the text has a wrong shape.
        """
        if self.pretrained is not None:
            ids = self.pretrained.split_texts(input_ids, attention_mask)[2]
            return nn.functional.normalize(self.pretrained.text_features(ids), dim=-1)
        head = self.direct or self._shared_head()
        mask = check_text(input_ids, attention_mask, self.config)
        return head.project_text(self.clipbert.encode(self.clipbert.embeddings(input_ids=input_ids), mask), mask)

    def get_video_features(self, visual_embeds: Tensor) -> Tensor:
        """Return unit vectors (B, P) of videos: the encoder over each clip alone, mean over tokens and clips,
        projection.

        With a pretrained dual encoder, the normalized mean of the frames' unit vectors; with a direct video head, the
        normalized mean of its embeddings of the frames.

        Args:
            visual_embeds: (B, K, V, hidden) from `encode_video`.

        Raises:
            ValueError: the configuration has no `projection_size`, or the tokens have a wrong shape.
        """
        if self.pretrained is not None:
            return self.pretrained.video_features(self.pretrained.split_embeddings(visual_embeds)[1])
        if self.direct is not None:
            return self.direct.video_features(self.direct.split_embeddings(visual_embeds)[1])
        head = self._shared_head()
        check_visual_embeds(visual_embeds, self.config.hidden_size)
        states = self.clipbert.encode(visual_embeds.flatten(0, 1), None)
        return head.project_video(states.view(visual_embeds.shape))

    def get_text_and_video_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        visual_embeds: Tensor,
        text_lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return `get_text_features` (N, P) and `get_video_features` (B, P) from one pass over packed rows.

        Texts and clips share rows where that leaves fewer tokens than padding them separately; training uses this.

        Args:
            input_ids: (N, L).
            attention_mask: (N, L).
            visual_embeds: (B, K, V, hidden).
            text_lengths: as in `ClipBertModel.pool_pairs`.

        Raises:
            ValueError: as in those two methods.
        """
        if self.pretrained is not None:
            return self.get_text_features(input_ids, attention_mask), self.get_video_features(visual_embeds)
        mask = check_text(input_ids, attention_mask, self.config)
        if self.clipbert.microbatches > 1 and torch.is_grad_enabled():
            return self._features_in_microbatches(input_ids, mask, visual_embeds, text_lengths)
        if self.direct is not None:
            states = self._packed_states(input_ids, mask, None, text_lengths)
            if states is None:
                return self.get_text_features(input_ids, mask), self.get_video_features(visual_embeds)
            return self.direct.project_text(states[0], mask), self.get_video_features(visual_embeds)
        head = self._shared_head()
        check_visual_embeds(visual_embeds, self.config.hidden_size)
        states = self._packed_states(input_ids, mask, visual_embeds, text_lengths)
        if states is None:
            return self.get_text_features(input_ids, mask), self.get_video_features(visual_embeds)
        return head.project_text(states[0], mask), head.project_video(states[1].view(visual_embeds.shape))

    def _features_in_microbatches(
        self, input_ids: Tensor, mask: Tensor, visual_embeds: Tensor, text_lengths: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Return the vectors of texts and videos, of which backward computes one part of the rows at a time again."""
        clipbert, parts = self.clipbert, self.clipbert.microbatches
        head = self.direct or self._shared_head()

        def texts(part: slice) -> Tensor:
            lengths = None if text_lengths is None else text_lengths[part]
            packed = self._packed_states(input_ids[part], mask[part], None, lengths)
            if packed is None:
                embeds = clipbert.embeddings(input_ids=input_ids[part])
                return head.project_text(clipbert.encode(embeds, mask[part], whole=True), mask[part])
            return head.project_text(packed[0], mask[part])

        def videos(part: slice) -> Tensor:
            some = visual_embeds[part]
            if isinstance(head, DirectVideoHead):
                return head.video_features(head.split_embeddings(some)[1])
            check_visual_embeds(some, self.config.hidden_size)
            return head.project_video(clipbert.encode(some.flatten(0, 1), None, whole=True).view(some.shape))

        return run_slices(texts, len(input_ids), parts), run_slices(videos, len(visual_embeds), parts)

    def _packed_states(
        self, input_ids: Tensor, mask: Tensor, visual_embeds: Tensor | None, text_lengths: Sequence[int] | None
    ) -> tuple[Tensor, Tensor] | None:
        """Return the states of texts (N, L, hidden), and of clips (B * K * V, hidden) that share their rows.

        None where texts cannot be packed, or packed rows have as many tokens as padded ones.
        """
        clipbert = self.clipbert
        lengths, exact = clipbert.known_lengths(mask, text_lengths)
        if lengths is None:
            return None
        clips, tokens = (0, 0) if visual_embeds is None else visual_embeds.flatten(0, 1).shape[:2]
        packing = Packing.from_lengths([*lengths, *[tokens] * clips], mask.device)
        if packing.sequences.numel() >= mask.numel() + clips * tokens:
            return None
        text = TextTokens.of(lengths, mask.shape[1], mask.device, exact)
        count = len(text.flat)
        if not exact:
            packing = packing.without(packing.slots[:count], text.hidden(mask))
        embeds = clipbert.embed_tokens(input_ids, text)
        if visual_embeds is not None:
            embeds = torch.cat([embeds, visual_embeds.flatten(0, 2)])
        states = clipbert.encode_packed(embeds, packing, whole=True)
        return text.scatter(states[:count], (mask.shape[0], mask.shape[1])), states[count:]

    def similarity(self, text_features: Tensor, video_features: Tensor) -> Tensor:
        """Return scaled cosine similarities (N, B) of unit vectors (N, P) and (B, P): the contrastive logits."""
        if self.contrast is None:
            raise ValueError(NO_HEAD)
        return self.contrast.similarity(text_features, video_features)

    def _shared_head(self) -> ContrastiveHead:
        if not isinstance(self.contrast, ContrastiveHead):
            raise ValueError(NO_HEAD)
        return self.contrast
