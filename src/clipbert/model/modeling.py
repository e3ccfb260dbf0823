"""ClipBERT model without a head: vision, text embeddings and the cross-modal encoder (section 3.1 of the paper)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEmbeddings, BertEncoder, BertLMPredictionHead, BertPooler
from transformers.utils import ModelOutput, can_return_tuple

from clipbert.files.leftovers import follow_umask
from clipbert.model.activation_checkpointing import has_trainable_batch_norm, run_in_microbatches
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.fusion import VisualEmbeddings
from clipbert.model.inputs import (
    can_read_values,
    check_frame_features,
    check_one_of,
    check_pixel_values,
    check_tensors,
    check_text,
    check_visual_embeds,
    video_index,
)
from clipbert.model.packing import Packing
from clipbert.model.vision import GridEncoder, Normalize
from clipbert.model.weights.checksums import check_model, sign_model


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


class ClipBertPreTrainedModel(PreTrainedModel):
    """Base class of all ClipBERT models: configuration, initialization, attention backends, signed model folders."""

    config_class = ClipBertConfig
    base_model_prefix = "clipbert"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ("BertEmbeddings", "BertLayer", "VisualEmbeddings")

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the model as transformers does, with the checksums that `from_pretrained` checks.

        Raises:
            ModelFolderError: the folder already holds checksums, and they are damaged.
        """
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        if folder.is_dir():
            for weights in folder.glob("model*.safetensors"):
                follow_umask(weights)  # safetensors creates files with mode 0600
            sign_model(folder)

    @property
    def input_device(self) -> torch.device | None:
        """Device of the inputs; None where accelerate's hooks move them, as with a `device_map`."""
        return None if any(hasattr(module, "_hf_hook") for module in (self, *self.children())) else self.device

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the model as transformers does, after checking every file of a local folder against its checksum.

        Raises:
            ModelFolderError: a file has changed since it was saved.
        """
        if isinstance(pretrained_model_name_or_path, str | Path) and Path(pretrained_model_name_or_path).is_dir():
            check_model(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, str], allow_all_kernels: bool = False
    ) -> None:
        """Set the attention implementation of the encoder only; the backbone keeps its own.

        The method of transformers also sets it on the backbone and raises for one without attention, such as ResNet.

        Raises:
            ValueError: unknown implementation, or one that this model does not support.
            ImportError: the implementation needs a package that is not installed.
        """
        if isinstance(attn_implementation, dict):
            attn_implementation = attn_implementation.get("", self.config._attn_implementation)
        self.config._attn_implementation = self._check_and_adjust_attn_implementation(
            attn_implementation, is_init_check=False, allow_all_kernels=allow_all_kernels
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BertLMPredictionHead):
            init.zeros_(module.bias)
        elif isinstance(module, BertEmbeddings):
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[-1]).expand((1, -1)))
            init.zeros_(module.token_type_ids)
        elif isinstance(module, Normalize):
            init.copy_(module.mean, module.values("image_mean"))
            init.copy_(module.std, module.values("image_std"))


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
        self.encoder = BertEncoder(config)
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

    def encode(self, embeds: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return encoder states (M, S, hidden) of token embeddings (M, S, hidden); the mask (M, S) is 0 at padding."""
        if (
            attention_mask is not None
            and self.config._attn_implementation == "sdpa"
            and not can_read_values(attention_mask)
        ):
            # create_bidirectional_mask reads the mask to find out whether there is padding: on a GPU, that blocks
            own = attention_mask.bool()[:, None, None].expand(-1, 1, embeds.shape[1], -1)
            return self.encode_rows(embeds, own)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=embeds, attention_mask=attention_mask)
        return self.encode_rows(embeds, mask)

    def encode_rows(self, embeds: Tensor, mask: Tensor | None) -> Tensor:
        """Return encoder states (M, S, hidden) under a mask in the form that the attention implementation takes.

        Runs in `microbatches` parts, see `set_microbatches`.
        """
        states: Tensor = run_in_microbatches(self._encoder_states, self.microbatches, embeds, mask)
        return states

    def _encoder_states(self, embeds: Tensor, mask: Tensor | None) -> Tensor:
        states: Tensor = self.encoder(embeds, attention_mask=mask).last_hidden_state
        return states

    def encode_packed(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Return encoder states (tokens, hidden) of packed sequences, none of which attends to another.

        Only where `supports_packing`.
        """
        rows, mask = packing.pack(tokens), packing.mask()
        if mask is not None and self.config._attn_implementation == "eager":  # it adds its mask to the scores
            mask = torch.zeros_like(mask, dtype=rows.dtype).masked_fill(~mask, torch.finfo(rows.dtype).min)
        return packing.unpack(self.encode_rows(rows, mask))

    @property
    def supports_packing(self) -> bool:
        """Whether `encode_packed` may be used: flash attention takes no mask of its form."""
        return self.config._attn_implementation in ("eager", "sdpa")

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

    def encode_pairs(self, input_ids: Tensor, attention_mask: Tensor, visual: Tensor) -> Tensor:
        """Return states (N, K, L + V, hidden) of texts (N, L), each with its clips' visual tokens (N, K, V, hidden)."""
        texts, clips, tokens, hidden = visual.shape
        text = self.embeddings(input_ids=input_ids)[:, None].expand(texts, clips, -1, hidden)
        joint = torch.cat([text, visual], dim=2).flatten(0, 1)
        mask = torch.cat([attention_mask, attention_mask.new_ones(texts, tokens)], dim=1)
        states = self.encode(joint, mask.repeat_interleave(clips, dim=0))
        return states.view(texts, clips, -1, hidden)

    def pool_pairs(self, input_ids: Tensor, attention_mask: Tensor, visual: Tensor) -> Tensor:
        """Return pooler outputs (N, K, hidden), as `forward` gives; in evaluation mode from packed rows.

        Training keeps padded rows, so that a run gives the same bits as before packing existed.
        """
        texts, clips, tokens, hidden = visual.shape
        packs = self.supports_packing and not self.training and can_read_values(attention_mask)
        if not packs or not bool(attention_mask[:, 0].all()):  # the pooler reads the first position
            states = self.encode_pairs(input_ids, attention_mask, visual)[:, :, :1].flatten(0, 1)
            return self.pooler(states).view(texts, clips, hidden)
        rows, columns = attention_mask.nonzero(as_tuple=True)
        text = self.embeddings(input_ids=input_ids[rows, columns][None], position_ids=columns[None])[0]
        # Sequence (n, k) is text n followed by clip k. `starts` are offsets in the order of the sequences, `first`
        # the indices of the texts' first tokens in the order of `text`.
        lengths = attention_mask.sum(dim=1)
        first = lengths.cumsum(0) - lengths
        per_clip = torch.arange(clips, device=visual.device)
        starts = (first + tokens * torch.arange(texts, device=visual.device))[:, None] * clips
        starts = starts + per_clip * (lengths + tokens)[:, None]
        text_order = starts[rows] + (torch.arange(len(rows), device=visual.device) - first[rows])[:, None]
        visual_order = (starts + lengths[:, None])[..., None] + torch.arange(tokens, device=visual.device)
        packing = Packing.from_lengths((lengths + tokens).repeat_interleave(clips).tolist(), visual.device)
        packing = packing.reorder(torch.cat([text_order.flatten(), visual_order.flatten()]))
        states = self.encode_packed(torch.cat([text.repeat_interleave(clips, dim=0), visual.flatten(0, 2)]), packing)
        pooled: Tensor = self.pooler(states[first[:, None] * clips + per_clip].flatten(0, 1)[:, None])
        return pooled.view(texts, clips, hidden)
