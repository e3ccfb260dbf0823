"""Captioning: the encoder generates a text token by token under a prefix mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.models.bert.modeling_bert import BertOnlyMLMHead
from transformers.utils import ModelOutput, can_return_tuple

from clipbert.model.configuration import ClipBertConfig
from clipbert.model.dual_encoder import ContrastiveHead
from clipbert.model.generation import Decoding, generate
from clipbert.model.heads import LanguageModelHeadMixin
from clipbert.model.inputs import check_labels, check_visual_embeds
from clipbert.model.losses import IGNORED, negative_log_likelihood
from clipbert.model.modeling import ClipBertModel


@dataclass
class ClipBertCaptioningOutput(ModelOutput):
    """Output of the captioning model.

    Attributes:
        loss: (), where labels were given.
        logits: (N, L, vocabulary), log-probabilities of the next token averaged over the clips. They are a product of
            experts and not normalized.
        clip_logits: (N, K, L, vocabulary), of each clip.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    clip_logits: Tensor | None = None


class ClipBertForCaptioning(LanguageModelHeadMixin):
    """ClipBERT that describes a video: text tokens attend to all visual tokens and to the text before them.

    The head is BERT's for masked words, with output weights tied to the word embeddings. Clips are aggregated by the
    mean of their log-probabilities; `config.score_aggregation` is ignored, because a logsumexp or maximum over clips
    would let a single clip choose each word.

    Example:
        >>> model = load("artifacts/models/captioning")
        >>> processor = ClipBertProcessor.from_pretrained("artifacts/models/captioning")
        >>> tokenizer = processor.tokenizer
        >>> ids, _ = model.generate(**processor(["a.mp4"]), start=tokenizer.cls_token_id, end=tokenizer.sep_token_id)
        >>> tokenizer.batch_decode(ids, skip_special_tokens=True)
    """

    # Flash attention has no prefix masks, which are neither full nor causal.
    _supports_flash_attn = False

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__(config)
        self.clipbert = ClipBertModel(config)
        # Unused here, but part of the checkpoint: other tasks start from this model.
        self.clipbert.pooler.requires_grad_(False)
        self.cls = BertOnlyMLMHead(config)
        self.contrast = None if config.projection_size is None else ContrastiveHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        texts_per_video: Tensor | None = None,
        visual_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        text_lengths: Sequence[int] | None = None,
        loss_only: bool = False,
    ) -> ClipBertCaptioningOutput:
        """Predict the next token at each position of N texts.

        Args:
            pixel_values: as in `ClipBertModel.forward`, like the next four.
            input_ids: (N, L), starting with [CLS] and padded at the right.
            attention_mask: (N, L).
            texts_per_video: (B,).
            visual_embeds: (B, K, V, hidden).
            labels: (N, L), the `input_ids` themselves, -100 at ignored positions such as padding. Position i predicts
                label i + 1; the loss is the mean negative log-probability.
            text_lengths: as in `ClipBertModel.pool_pairs`.
            loss_only: whether to return the loss alone, which is computed without the padding.

        Raises:
            ValueError: naming the argument, its shape and what was expected.
        """
        input_ids, mask, visual, _ = self.clipbert.prepare_inputs(
            pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds
        )
        if loss_only and labels is not None:
            loss = self._packed_loss(input_ids, mask, visual, labels, text_lengths)
            if loss is not None:
                return ClipBertCaptioningOutput(loss=loss)
        texts, clips, tokens, _ = visual.shape
        text = _for_each_clip(self.clipbert.embeddings(input_ids=input_ids), clips)
        seen = _for_each_clip(torch.cat([mask.new_ones(texts, tokens), mask], dim=1), clips)
        states = self.encode_prefix(visual.flatten(0, 1), text, seen)[:, tokens:]
        clip_logits = self.cls(states).unflatten(0, (texts, clips))
        logits = mean_log_probabilities(clip_logits)
        loss = None
        if labels is not None:
            check_labels(labels, "labels", tuple(input_ids.shape), self.config.vocab_size, ignored=IGNORED)
            loss = negative_log_likelihood(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), self.label_smoothing)
        if loss_only:
            return ClipBertCaptioningOutput(loss=loss)
        return ClipBertCaptioningOutput(loss=loss, logits=logits, clip_logits=clip_logits)

    def _packed_loss(
        self, input_ids: Tensor, mask: Tensor, visual: Tensor, labels: Tensor, text_lengths: Sequence[int] | None
    ) -> Tensor | None:
        """Return the loss from packed rows; None where texts cannot be packed."""
        packed = self.clipbert.pack_pairs(mask, visual, text_lengths, visual_first=True)
        if packed is None:
            return None
        check_labels(labels, "labels", tuple(input_ids.shape), self.config.vocab_size, ignored=IGNORED)
        states = self.clipbert.encode_packed_pairs(input_ids, visual, packed)  # (T, K, hidden)
        following = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten().index_select(0, packed.text.flat)
        return negative_log_likelihood(mean_log_probabilities(self.cls(states)), following, self.label_smoothing)

    def encode_prefix(self, visual: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """Return encoder states (M, V + L, hidden) under a prefix mask.

        Args:
            visual: (M, V, hidden) visual tokens, the prefix.
            text: (M, L, hidden) text embeddings after it.
            seen: (M, V + L), 0 at padding.
        """
        joint = torch.cat([visual, text], dim=1)
        block = torch.full(joint.shape[:2], -1, dtype=torch.long, device=joint.device)
        block[:, : visual.shape[1]] = 0
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=joint,
            attention_mask=seen,
            past_key_values=None,
            block_sequence_ids=block,
            allow_is_causal_skip=False,
        )
        return self.clipbert.encode_rows(joint, mask)

    def prefill(self, visual_embeds: Tensor) -> DynamicCache:
        """Return the cached keys and values (B * K rows) of the visual tokens (B, K, V, hidden) of all clips."""
        check_visual_embeds(visual_embeds, self.config.hidden_size)
        cache = DynamicCache()
        self.clipbert.encoder(visual_embeds.flatten(0, 1), past_key_values=cache, use_cache=True)
        return cache

    def next_token_log_probs(self, tokens: Tensor, position: int, cache: DynamicCache, clips: int) -> Tensor:
        """Return log-probabilities (M, vocabulary) of the tokens that follow, and extend the cache.

        Args:
            tokens: (M,) last token of each text.
            position: of these tokens in their texts.
            cache: M * clips rows.
            clips: number of clips per text.
        """
        at = torch.full((len(tokens), 1), position, dtype=torch.long, device=tokens.device)
        text = self.clipbert.embeddings(input_ids=tokens[:, None], position_ids=at).repeat_interleave(clips, dim=0)
        # A single new token attends to everything before it: no mask.
        states = self.clipbert.encoder(text, past_key_values=cache, use_cache=True).last_hidden_state
        return mean_log_probabilities(self.cls(states).unflatten(0, (len(tokens), clips)))[:, 0]

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor | None = None,
        visual_embeds: Tensor | None = None,
        *,
        start: int,
        end: int,
        decoding: Decoding | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Generate one text per video by greedy or beam search.

        The `generate` of transformers keeps one cache row per text; here a text has one per clip, so the search is
        that of `generation.py`.

        Args:
            pixel_values: (B, K, T, 3, H, W).
            visual_embeds: (B, K, V, hidden) from `encode_video`, instead of `pixel_values`.
            start: id of the tokenizer's [CLS].
            end: id of the tokenizer's [SEP].
            decoding: search settings; None: greedy.

        Returns:
            token ids (B, length) that end with `end` and padding, and log-probabilities (B,).

        Raises:
            ValueError: not exactly one of `pixel_values` and `visual_embeds`, a wrong shape, a token outside the
                vocabulary, or more tokens than there are position embeddings.
        """
        if (pixel_values is None) == (visual_embeds is None):
            raise ValueError("pixel_values and visual_embeds: exactly one of them must be given.")
        if visual_embeds is None:
            assert pixel_values is not None
            visual_embeds = self.encode_video(pixel_values)
        return generate(self, visual_embeds, start, end, decoding or Decoding())


def _for_each_clip(rows: Tensor, clips: int) -> Tensor:
    """Return rows (N, ...) once for each clip, (N * clips, ...): `repeat_interleave`, in a form that ONNX has."""
    return rows[:, None].expand(-1, clips, *rows.shape[1:]).flatten(0, 1)


def mean_log_probabilities(clip_logits: Tensor) -> Tensor:
    """Return log-probabilities (N, ..., vocabulary), averaged over the clips, of logits (N, K, ..., vocabulary)."""
    dtype = torch.promote_types(clip_logits.dtype, torch.float32)
    return clip_logits.log_softmax(dim=-1, dtype=dtype).mean(dim=1)
