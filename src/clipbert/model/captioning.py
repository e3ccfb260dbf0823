"""Captioning: the shared encoder under a prefix mask writes a text token by token (an application the paper names)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.models.bert.modeling_bert import BertOnlyMLMHead
from transformers.utils import ModelOutput

from clipbert.model.configuration import ClipBertConfig
from clipbert.model.dual_encoder import ContrastiveHead
from clipbert.model.generation import Decoding, generate
from clipbert.model.heads import LanguageModelHeadMixin
from clipbert.model.inputs import check_labels, check_visual_embeds
from clipbert.model.losses import IGNORED, negative_log_likelihood
from clipbert.model.modeling import ClipBertModel


@dataclass
class ClipBertCaptioningOutput(ModelOutput):
    """`loss` (), `logits` (N, L, vocabulary), `clip_logits` (N, K, L, vocabulary) a clip alone.

    `logits` are the log-probabilities of the next token, averaged over the clips: a product of experts, not normalised.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    clip_logits: Tensor | None = None


class ClipBertForCaptioning(LanguageModelHeadMixin):
    """Describes a video: visual tokens see each other, a text token sees them and the text before it.

    The head is BERT's for masked words, its output weights those of the word embeddings. Clips are always joined by
    the mean of their log-probabilities, whatever `config.score_aggregation` says: of scores that are joined, not of
    words, a logsumexp or a maximum over clips would let one clip choose each word alone.
    """

    # A prefix mask is neither full nor causal: flash attention has no such mask.
    _supports_flash_attn = False

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__(config)
        self.clipbert = ClipBertModel(config)
        # a text is written from the tokens' own states: the pooler is there for the weights of other tasks
        self.clipbert.pooler.requires_grad_(False)
        self.cls = BertOnlyMLMHead(config)
        self.contrast = None if config.projection_size is None else ContrastiveHead(config)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        texts_per_video: Tensor | None = None,
        visual_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> ClipBertCaptioningOutput:
        """Arguments as `ClipBertModel.forward`; texts start with [CLS] and are padded at the right.

        `labels` (N, L): the text itself (`input_ids`), -100 where nothing is to be learned, as in padding. Position i
        predicts label i + 1; the loss is the mean over those labels of the negative log-probability, averaged over
        clips.

        Raises:
            ValueError: naming the argument, its shape and what was expected.
        """
        input_ids, mask, visual, _ = self.clipbert.prepare_inputs(
            pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds
        )
        texts, clips, tokens, _ = visual.shape
        text = self.clipbert.embeddings(input_ids=input_ids).repeat_interleave(clips, dim=0)
        seen = torch.cat([mask.new_ones(texts, tokens), mask], dim=1).repeat_interleave(clips, dim=0)
        states = self.encode_prefix(visual.flatten(0, 1), text, seen)[:, tokens:]
        clip_logits = self.cls(states).unflatten(0, (texts, clips))
        logits = mean_log_probabilities(clip_logits)
        loss = None
        if labels is not None:
            check_labels(labels, "labels", tuple(input_ids.shape), self.config.vocab_size, ignored=IGNORED)
            loss = negative_log_likelihood(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), self.label_smoothing)
        return ClipBertCaptioningOutput(loss=loss, logits=logits, clip_logits=clip_logits)

    def encode_prefix(self, visual: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """States (M, V + L, hidden) of visual tokens (M, V, hidden) and text embeddings (M, L, hidden) after them.

        `seen` (M, V + L) is 0 at padding.
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

    def read_video(self, visual_embeds: Tensor) -> DynamicCache:
        """The keys and values of all clips' visual tokens, (B * K) rows: what every text of theirs can start from."""
        check_visual_embeds(visual_embeds, self.config.hidden_size)
        cache = DynamicCache()
        self.clipbert.encoder(visual_embeds.flatten(0, 1), past_key_values=cache, use_cache=True)
        return cache

    def next_token_log_probs(self, tokens: Tensor, position: int, cache: DynamicCache, clips: int) -> Tensor:
        """(M, vocabulary): what follows tokens (M,) at a position of their texts, with `cache` of M * clips rows.

        The tokens' own keys and values are added to the cache.
        """
        at = torch.full((len(tokens), 1), position, dtype=torch.long, device=tokens.device)
        text = self.clipbert.embeddings(input_ids=tokens[:, None], position_ids=at).repeat_interleave(clips, dim=0)
        # One text token sees all there is before it: no mask.
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
        """One text a video: token ids (B, length) that end with `end` and padding, and log-probabilities (B,).

        `start` and `end` are the tokenizer's [CLS] and [SEP]; neither they nor padding count as words. transformers'
        own `generate` has one row of the cache a text; here a text has one a clip, so the search is `generation.py`'s.

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


def mean_log_probabilities(clip_logits: Tensor) -> Tensor:
    """Logits (N, K, L, vocabulary) of the clips to log-probabilities (N, L, vocabulary), averaged over the clips."""
    dtype = torch.promote_types(clip_logits.dtype, torch.float32)
    return clip_logits.log_softmax(dim=-1, dtype=dtype).mean(dim=1)
