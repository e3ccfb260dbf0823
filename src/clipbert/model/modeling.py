"""ClipBERT model without a head: vision, text embeddings and the cross-modal encoder (section 3.1 of the paper)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEmbeddings, BertPooler
from transformers.utils import ModelOutput, can_return_tuple

from clipbert.model.activation_checkpointing import has_trainable_batch_norm, run_in_microbatches, run_slices
from clipbert.model.base import ClipBertPreTrainedModel
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.encoder import ClipBertEncoder
from clipbert.model.fusion import VisualEmbeddings
from clipbert.model.inputs import (
    can_read_values,
    check_frame_features,
    check_one_of,
    check_pixel_values,
    check_tensors,
    check_text,
    check_text_lengths,
    check_visual_embeds,
    video_index,
)
from clipbert.model.packing import PackedPairs, Packing, TextTokens
from clipbert.model.vision import GridEncoder


@dataclass
class ClipBertModelOutput(ModelOutput):
    """Encoder states of N texts, each paired with the K clips of its video.

    Attributes:
        last_hidden_state: (N, K, L + V, hidden), the L text positions before the V visual tokens.
        pooler_output: (N, K, hidden).
        visual_embeds: (B, K, V, hidden), reusable as an input with other texts.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    visual_embeds: Tensor | None = None


class ClipBertModel(ClipBertPreTrainedModel):
    """ClipBERT encoder without a head: one BERT over the text embeddings and the visual tokens of a clip.

    Example:
        >>> config = ClipBertConfig.tiny()
        >>> model = ClipBertModel(config)
        >>> pixel_values = torch.zeros(1, 2, 1, 3, 96, 96, dtype=torch.uint8)  # one video, 2 clips of 1 frame
        >>> output = model(pixel_values, input_ids=torch.tensor([[2, 7, 8, 3]]))
        >>> output.pooler_output.shape
        torch.Size([1, 2, 128])
    """

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__(config)
        self.vision = GridEncoder(config)
        self.visual_embeddings = VisualEmbeddings(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = ClipBertEncoder(config)
        self.pooler = BertPooler(config)
        self.microbatches = 1  # see `set_microbatches`
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.word_embeddings = value

    def encode_video(self, pixel_values: Tensor, keep: int | None = None) -> Tensor:
        """Return visual tokens (B, K, V, hidden) of frames (B, K, T, 3, H, W).

        Pass them as `visual_embeds` to score any number of texts without computing the vision half again.

        Args:
            pixel_values: RGB, uint8 or float in [0, 255].
            keep: number of random grid cells kept of each clip; None: all.

        Raises:
            ValueError: frames of a wrong shape or type, or too large or too small for the grid.
        """
        return self._encode_frames(self.vision, pixel_values, keep)[0]

    def encode_video_and_frames(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, K, V, hidden) and the vision half's pooled output (B, K, T, channels) of frames.

        Only where `config.dual_encoder` is set.

        Args:
            pixel_values: as in `encode_video`.

        Raises:
            ValueError: as in `encode_video`.
        """
        tokens, (pooled,) = self._encode_frames(self.vision.encode_with_pooled, pixel_values, None)
        return tokens, pooled.view(*pixel_values.shape[:3], -1)

    def feature_maps(self, pixel_values: Tensor) -> Tensor:
        """Return the backbone's last feature maps (B, K, T, channels, h, w) of frames (B, K, T, 3, H, W).

        Raises:
            ValueError: as in `encode_video`.
        """
        check_tensors(self.input_device, pixel_values=pixel_values)
        check_pixel_values(pixel_values)
        parts = 1 if has_trainable_batch_norm(self.vision) else self.microbatches
        maps: Tensor = run_in_microbatches(self.vision.feature_maps, parts, pixel_values.flatten(0, 2))
        return maps.unflatten(0, pixel_values.shape[:3])

    def encode_features(self, frame_features: Tensor) -> Tensor:
        """Return visual tokens (B, K, V, hidden) of feature maps (B, K, T, channels, h, w).

        Raises:
            ValueError: another shape than that of the backbone's feature maps.
        """
        check_frame_features(frame_features, self.vision.channels, maps=True)
        videos, clips, frames = frame_features.shape[:3]
        maps = frame_features.flatten(0, 2).to(self.vision.projection.weight.dtype)
        grids = self.vision.grid(maps.contiguous(memory_format=torch.channels_last))
        grids = grids.view(videos * clips, frames, *grids.shape[1:])
        return self.visual_embeddings(grids, None).view(videos, clips, -1, self.config.hidden_size)

    def _encode_frames(
        self, encode: Callable[[Tensor], Any], pixel_values: Tensor, keep: int | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the visual tokens of frames, and what `encode` returns besides the grids."""
        check_tensors(self.input_device, pixel_values=pixel_values)
        check_pixel_values(pixel_values)
        videos, clips, frames = pixel_values.shape[:3]
        parts = 1 if has_trainable_batch_norm(self.vision) else self.microbatches
        encoded = run_in_microbatches(encode, parts, pixel_values.flatten(0, 2))
        grids, *others = encoded if isinstance(encoded, tuple) else (encoded,)
        grids = grids.view(videos * clips, frames, *grids.shape[1:])
        return self.visual_embeddings(grids, keep).view(videos, clips, -1, self.config.hidden_size), tuple(others)

    def encode(self, embeds: Tensor, attention_mask: Tensor | None, whole: bool = False) -> Tensor:
        """Return encoder states (M, S, hidden) of token embeddings (M, S, hidden); the mask (M, S) is 0 at padding.

        Args:
            whole: as in `encode_rows`.
        """
        if (
            attention_mask is not None
            and self.config._attn_implementation == "sdpa"
            and not can_read_values(attention_mask)
        ):
            # create_bidirectional_mask reads the mask to find out whether there is padding: on a GPU, that blocks
            own = attention_mask.bool()[:, None, None].expand(-1, 1, embeds.shape[1], -1)
            return self.encode_rows(embeds, own, whole)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=embeds, attention_mask=attention_mask)
        return self.encode_rows(embeds, mask, whole)

    def encode_rows(self, embeds: Tensor, mask: Tensor | None, whole: bool = False) -> Tensor:
        """Return encoder states (M, S, hidden) under a mask in the form that the attention implementation takes.

        Args:
            embeds: (M, S, hidden).
            mask: (M, 1, S, S).
            whole: whether to run in one part; if not, it runs in `microbatches`, see `set_microbatches`.
        """
        parts = 1 if whole else self.microbatches
        states: Tensor = run_in_microbatches(self._encoder_states, parts, embeds, mask)
        return states

    def _encoder_states(self, embeds: Tensor, mask: Tensor | None) -> Tensor:
        states: Tensor = self.encoder(embeds, attention_mask=mask).last_hidden_state
        return states

    def encode_packed(self, tokens: Tensor, packing: Packing, whole: bool = False) -> Tensor:
        """Return encoder states (tokens, hidden) of packed sequences, none of which attends to another.

        Only where `supports_packing`; `whole` as in `encode_rows`.
        """
        rows = packing.pack(tokens)
        return packing.unpack(self.encode_rows(rows, self.attention_mask(packing.mask(), rows.dtype), whole))

    def attention_mask(self, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Return a mask (R, 1, W, W), true where a token is attended to, in the form of the attention implementation.

        Only where `supports_packing`.
        """
        if mask is None or self.config._attn_implementation != "eager":
            return mask
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)  # added to the scores

    @property
    def supports_packing(self) -> bool:
        """Whether `encode_packed` may be used: flash attention takes no mask of its form."""
        return self.config._attn_implementation in ("eager", "sdpa")

    def known_lengths(
        self, attention_mask: Tensor, text_lengths: Sequence[int] | None
    ) -> tuple[Sequence[int] | None, bool]:
        """Return the lengths of texts under a mask (N, L), or upper bounds of them, and whether they are exact.

        They are read from the mask where that does not wait for a GPU. They are None where texts cannot be packed:
        their lengths are unknown, they start with padding or have gaps, or the attention takes no mask of packed rows.

        Args:
            text_lengths: upper bounds, known on the host.

        Raises:
            ValueError: `text_lengths` do not fit the mask.
        """
        if text_lengths is not None:
            check_text_lengths(text_lengths, attention_mask)
        if not self.supports_packing:
            return None, False
        if not can_read_values(attention_mask):
            return text_lengths, False
        if not bool(attention_mask[:, 0].all()) or bool((attention_mask.diff(dim=1) > 0).any()):
            return None, False
        return attention_mask.sum(dim=1).tolist(), True

    def prepare_inputs(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        texts_per_video: Tensor | None,
        visual_embeds: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Check the arguments of `forward` and encode the videos where pixels are given.

        Returns:
            `input_ids` (N, L), `attention_mask` (N, L), the visual tokens of each text's video (N, K, V, hidden), and
            those of the videos (B, K, V, hidden).

        Raises:
            ValueError: naming the argument, its shape and what was expected.
        """
        check_one_of(pixel_values, visual_embeds)
        if input_ids is None:
            raise ValueError("input_ids is missing: expected (texts, length).")
        check_tensors(
            self.input_device,
            pixel_values=pixel_values,
            visual_embeds=visual_embeds,
            input_ids=input_ids,
            attention_mask=attention_mask,
        )
        text_mask = check_text(input_ids, attention_mask, self.config)
        if pixel_values is not None:
            check_pixel_values(pixel_values)
            owner = video_index(texts_per_video, pixel_values.shape[0], input_ids.shape[0])
            visual_embeds = self.encode_video(pixel_values)
        else:
            assert visual_embeds is not None
            check_visual_embeds(visual_embeds, self.config.hidden_size)
            owner = video_index(texts_per_video, visual_embeds.shape[0], input_ids.shape[0])
        visual = visual_embeds if owner is None else visual_embeds.index_select(0, owner.to(visual_embeds.device))
        return input_ids, text_mask, visual, visual_embeds

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        texts_per_video: Tensor | None = None,
        visual_embeds: Tensor | None = None,
    ) -> ClipBertModelOutput:
        """Encode N texts, each with every clip of its video.

        Args:
            pixel_values: (B, K, T, 3, H, W) RGB, uint8 or float in [0, 255].
            input_ids: (N, L).
            attention_mask: (N, L), 1 for a token and 0 for padding; None: no padding.
            texts_per_video: (B,) number of consecutive texts that belong to each video; None: one each.
            visual_embeds: (B, K, V, hidden) from `encode_video`, instead of `pixel_values`.

        Raises:
            ValueError: naming the argument, its shape and what was expected.
        """
        input_ids, text_mask, visual, visual_embeds = self.prepare_inputs(
            pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds
        )
        states = self.encode_pairs(input_ids, text_mask, visual)
        pooled = self.pooler(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return ClipBertModelOutput(last_hidden_state=states, pooler_output=pooled, visual_embeds=visual_embeds)

    def encode_pairs(self, input_ids: Tensor, attention_mask: Tensor, visual: Tensor, whole: bool = False) -> Tensor:
        """Return states (N, K, L + V, hidden) of texts (N, L), each with its clips' visual tokens (N, K, V, hidden).

        Args:
            whole: as in `encode_rows`.
        """
        texts, clips, tokens, hidden = visual.shape
        text = self.embeddings(input_ids=input_ids)[:, None].expand(texts, clips, -1, hidden)
        joint = torch.cat([text, visual], dim=2).flatten(0, 1)
        mask = torch.cat([attention_mask, attention_mask.new_ones(texts, tokens)], dim=1)
        states = self.encode(joint, mask[:, None].expand(-1, clips, -1).flatten(0, 1), whole)
        return states.view(texts, clips, -1, hidden)

    def pack_pairs(
        self,
        attention_mask: Tensor,
        visual: Tensor,
        text_lengths: Sequence[int] | None,
        visual_first: bool = False,
    ) -> PackedPairs | None:
        """Return the rows of texts under a mask (N, L), each with its clips' visual tokens (N, K, V, hidden).

        None where texts cannot be packed, see `known_lengths`.

        Args:
            attention_mask: (N, L).
            visual: (N, K, V, hidden).
            text_lengths: N upper bounds of the texts' lengths, known on the host.
            visual_first: as in `PackedPairs.of`.
        """
        lengths, exact = self.known_lengths(attention_mask, text_lengths)
        if lengths is None:
            return None
        return PackedPairs.of(lengths, attention_mask, visual.shape[1], visual.shape[2], exact, visual_first)

    def embed_tokens(self, input_ids: Tensor, text: TextTokens) -> Tensor:
        """Return the embeddings (T, hidden) of some tokens of texts (N, L)."""
        ids = input_ids.flatten().index_select(0, text.flat)
        embeds: Tensor = self.embeddings(input_ids=ids[None], position_ids=text.columns[None])[0]
        return embeds

    def encode_packed_pairs(self, input_ids: Tensor, visual: Tensor, packed: PackedPairs) -> Tensor:
        """Return the states (T, K, hidden) of the texts' tokens; arguments as in `pool_pairs`."""
        rows = packed.pack(self.embed_tokens(input_ids, packed.text), visual)
        states = self.encode_rows(rows, self.attention_mask(packed.mask(), rows.dtype))
        return packed.text_states(states, visual.shape[1])

    def encode_texts_of_pairs(
        self, input_ids: Tensor, attention_mask: Tensor, visual: Tensor, text_lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Return the states (N, K, L, hidden) of the text positions, zero at padding of packed rows.

        Arguments as in `pool_pairs`.
        """
        packed = self.pack_pairs(attention_mask, visual, text_lengths)
        if packed is None:
            return self.encode_pairs(input_ids, attention_mask, visual)[:, :, : input_ids.shape[1]]
        states = self.encode_packed_pairs(input_ids, visual, packed)
        return packed.text.scatter(states, (input_ids.shape[0], input_ids.shape[1])).transpose(1, 2)

    def pool_pairs(
        self, input_ids: Tensor, attention_mask: Tensor, visual: Tensor, text_lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Return pooler outputs (N, K, hidden), as `forward` gives, from packed rows where texts can be packed.

        Args:
            input_ids: (N, L).
            attention_mask: (N, L).
            visual: (N, K, V, hidden), the clips' visual tokens of each text.
            text_lengths: N upper bounds of the texts' lengths; None: read from the mask where that does not wait for a
                GPU.
        """

        def pooled(part: slice) -> Tensor:
            lengths = None if text_lengths is None else text_lengths[part]
            return self._pool_pairs(input_ids[part], attention_mask[part], visual[part], lengths)

        return run_slices(pooled, input_ids.shape[0], self.microbatches)  # `len` would fix the size of an export

    def _pool_pairs(
        self, input_ids: Tensor, attention_mask: Tensor, visual: Tensor, text_lengths: Sequence[int] | None
    ) -> Tensor:
        texts, clips, _, hidden = visual.shape
        packed = self.pack_pairs(attention_mask, visual, text_lengths)
        if packed is None:
            states = self.encode_pairs(input_ids, attention_mask, visual, whole=True)[:, :, :1].flatten(0, 1)
        else:
            rows = packed.pack(self.embed_tokens(input_ids, packed.text), visual)
            mask = self.attention_mask(packed.mask(), rows.dtype)
            found: Tensor = self.encoder(rows, attention_mask=mask, queries=packed.queries)
            states = found.flatten(0, 1).index_select(0, packed.query)[:, None]
        pooled: Tensor = self.pooler(states)
        return pooled.view(texts, clips, hidden)
