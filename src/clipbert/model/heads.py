"""Task heads: logits per clip, logits per text, and the loss (section 3.2 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertOnlyMLMHead, BertPreTrainingHeads
from transformers.utils import ModelOutput, can_return_tuple

from clipbert.model.configuration import ClipBertConfig
from clipbert.model.dual_encoder import ClipBertDualEncoder, make_contrast
from clipbert.model.inputs import can_read_values, check_labels, check_one_of, check_options, check_scores
from clipbert.model.losses import IGNORED, aggregate, cross_entropy, ranking_loss, soft_score_loss
from clipbert.model.modeling import ClipBertModel
from clipbert.model.pretrained_dual_encoder import PretrainedDualEncoder


@dataclass
class ClipBertOutput(ModelOutput):
    """Output of the classification models.

    Attributes:
        loss: (), where labels were given.
        logits: (N, labels), aggregated over the clips.
        clip_logits: (N, K, labels), of each clip.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    clip_logits: Tensor | None = None


class Classifier(nn.Sequential):
    """Two-layer head of the paper's fine-tuning tasks: hidden size, twice the hidden size, ReLU, labels."""

    def __init__(self, config: ClipBertConfig, labels: int) -> None:
        super().__init__(
            nn.Linear(config.hidden_size, config.hidden_size * 2),
            nn.ReLU(),
            nn.Linear(config.hidden_size * 2, labels),
        )


class LanguageModelHeadMixin(ClipBertDualEncoder):
    """Mixin for models with BERT's word head `cls`; its output weights are tied to the word embeddings."""

    _tied_weights_keys = {  # noqa: RUF012
        "cls.predictions.decoder.weight": "clipbert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    cls: BertOnlyMLMHead | BertPreTrainingHeads

    def get_output_embeddings(self) -> nn.Module:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias


class _ForClassification(ClipBertDualEncoder):
    """ClipBERT with a classifier of `labels` outputs over the pooled state of each (text, clip) pair."""

    def __init__(self, config: ClipBertConfig, labels: int) -> None:
        super().__init__(config)
        self.clipbert = ClipBertModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = Classifier(config, labels)
        self.contrast = make_contrast(config, self.clipbert.vision.channels)

    def clip_logits(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        texts_per_video: Tensor | None,
        visual_embeds: Tensor | None,
        text_lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits per clip (N, K, labels) and the visual tokens (B, K, V, hidden) of the videos."""
        if self.pretrained is not None and input_ids is not None:
            input_ids, attention_mask, _ = self.pretrained.split_texts(input_ids, attention_mask)
        if self.pretrained is not None and visual_embeds is not None:
            visual_embeds, _ = self.pretrained.split_embeddings(visual_embeds)
        if self.direct is not None:
            if not self.config.cross_encoder:
                raise ValueError(
                    "cross_encoder is False and video_head is 'direct': this model has no logits of pairs. Use "
                    "get_text_features, get_video_features and similarity."
                )
            check_one_of(pixel_values, visual_embeds)
            if pixel_values is not None:
                visual_embeds = self.encode_video(pixel_values)
                pixel_values = None
            assert visual_embeds is not None
            visual_embeds, _ = self.direct.split_embeddings(visual_embeds)
        input_ids, mask, visual, visual_embeds = self.clipbert.prepare_inputs(
            pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds
        )
        pooled = self.clipbert.pool_pairs(input_ids, mask, visual, text_lengths)
        if self.training:
            return self.classifier(self.dropout(pooled)), visual_embeds
        # Logits in bf16, which has three digits, would tie the scores of many videos.
        with torch.autocast(pooled.device.type, enabled=False):
            return self.classifier(pooled.to(next(self.classifier.parameters()).dtype)), visual_embeds


class ClipBertForRetrieval(_ForClassification):
    """ClipBERT that scores whether a text matches a video.

    Example:
        >>> model = load("artifacts/models/retrieval")
        >>> processor = ClipBertProcessor.from_pretrained("artifacts/models/retrieval")
        >>> inputs = processor(["a.mp4"], ["a red circle moves left", "a blue square"])
        >>> output = model(**inputs, texts_per_video=torch.tensor([2]))
        >>> model.match_scores(output.logits)  # (2,), higher is a better match
    """

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__(config, labels=2 if config.retrieval_loss == "ce" else 1)
        if config.dual_encoder is not None:
            self.contrast = PretrainedDualEncoder(config)
        self.post_init()

    def start_at_zero_shot(self) -> None:
        """Set the last layer of the head to zero, so that the score is the dual encoder's similarity at first."""
        for parameter in self.classifier[-1].parameters():
            nn.init.zeros_(parameter)

    def freeze_dual_encoder(self) -> None:
        """Stop training both halves of the pretrained dual encoder, also its dropout in `train()`."""
        assert self.pretrained is not None
        self.pretrained.freeze()
        self.clipbert.vision.freeze_backbone()

    def freeze_cross_encoder(self) -> None:
        """Stop training what only the cross-encoder uses: the head, with a direct video head also the visual tokens,
        with a pretrained dual encoder both and the BERT encoder.

        For a model whose `config.cross_encoder` is False.
        """
        clipbert = self.clipbert
        unused: list[nn.Module] = [self.classifier, clipbert.pooler]
        if self.pretrained is not None or self.direct is not None:
            unused += [clipbert.visual_embeddings, clipbert.vision.projection]
        if self.pretrained is not None:
            unused += [clipbert.embeddings, clipbert.encoder]
        for module in unused:
            module.requires_grad_(False)

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
    ) -> ClipBertOutput:
        """Score N texts against their videos.

        Args:
            pixel_values: as in `ClipBertModel.forward`, like the next four.
            input_ids: (N, L).
            attention_mask: (N, L).
            texts_per_video: (B,).
            visual_embeds: (B, K, V, hidden).
            labels: (N,), 1 for a matched text and 0 for an unmatched one.
            text_lengths: as in `ClipBertModel.pool_pairs`.

        Returns:
            `logits` (N, 2) with the ce loss, (N, 1) with the ranking loss; `match_scores` converts both to scores.

        Raises:
            ValueError: naming the argument, its shape and what was expected.
        """
        clip_logits, visual = self.clip_logits(
            pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds, text_lengths
        )
        logits = aggregate(clip_logits, self.config.score_aggregation)
        loss = None
        if labels is not None:
            check_labels(labels, "labels", (logits.shape[0],), classes=2)
            if self.config.retrieval_loss == "ce":
                loss = cross_entropy(logits, labels, self.label_smoothing)
            else:
                owner = torch.arange(visual.shape[0], device=logits.device)
                if texts_per_video is not None:
                    owner = torch.repeat_interleave(owner, texts_per_video.to(owner.device), output_size=len(logits))
                loss = ranking_loss(logits[:, 0].sigmoid(), labels, owner, self.config.ranking_margin)
        return ClipBertOutput(loss=loss, logits=logits, clip_logits=clip_logits)

    def match_scores(self, logits: Tensor) -> Tensor:
        """Return the log odds (N,) of a match from logits (N, 1 or 2): ranked like probabilities, never saturated."""
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


class ClipBertForOpenQA(_ForClassification):
    """ClipBERT that answers a question about a video or an image with one of `config.answers`.

    Example:
        >>> model = load("artifacts/models/open_qa")
        >>> processor = ClipBertProcessor.from_pretrained("artifacts/models/open_qa")
        >>> output = model(**processor(["a.mp4"], ["what color is the circle?"]))
        >>> model.config.answers[int(output.logits.argmax())]
    """

    def __init__(self, config: ClipBertConfig) -> None:
        if not config.answers:
            raise ValueError(f"answers is {config.answers!r}: open QA needs the list of answers in config.answers.")
        super().__init__(config, labels=len(config.answers))
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
    ) -> ClipBertOutput:
        """Score the answers of N questions about their videos.

        Args:
            pixel_values: as in `ClipBertModel.forward`, like the next four.
            input_ids: (N, L).
            attention_mask: (N, L).
            texts_per_video: (B,).
            visual_embeds: (B, K, V, hidden).
            labels: with `config.answer_loss` "ce", (N,) indices into `config.answers`, -100 ignored; with "bce",
                (N, answers) soft scores from 0 to 1, for a binary cross-entropy summed over the answers and averaged
                over the texts.
            text_lengths: as in `ClipBertModel.pool_pairs`.

        Raises:
            ValueError: naming the argument, its shape and what was expected.
        """
        clip_logits, _ = self.clip_logits(
            pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds, text_lengths
        )
        logits = aggregate(clip_logits, self.config.score_aggregation)
        loss = None
        if labels is not None:
            if self.config.answer_loss == "ce":
                check_labels(labels, "labels", (logits.shape[0],), classes=logits.shape[1], ignored=IGNORED)
                loss = cross_entropy(logits, labels, self.label_smoothing)
            else:
                check_scores(labels, "labels", tuple(logits.shape))
                loss = soft_score_loss(logits, labels)
        return ClipBertOutput(loss=loss, logits=logits, clip_logits=clip_logits)


class ClipBertForMultipleChoice(_ForClassification):
    """ClipBERT that chooses among the options of a question; each option is one text of its video."""

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__(config, labels=1)
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
        options_per_question: Tensor | None = None,
        text_lengths: Sequence[int] | None = None,
    ) -> ClipBertOutput:
        """Score the options of Q questions about their videos.

        Args:
            pixel_values: as in `ClipBertModel.forward`, like the next four.
            input_ids: (N, L), the options of all questions one after another.
            attention_mask: (N, L).
            texts_per_video: (B,).
            visual_embeds: (B, K, V, hidden).
            labels: (Q,) position of the right option.
            options_per_question: (Q,) number of consecutive texts that are the options of each question, all of one
                video, which may have several questions; None: one question per video, all with as many options.
            text_lengths: as in `ClipBertModel.pool_pairs`.

        Returns:
            `clip_logits` (N, K, 1) and `logits` (Q, most options), minus infinity where a question has fewer options.

        Raises:
            ValueError: videos with different numbers of options and no `options_per_question`, a label beyond its
                question's options, or an argument of a wrong shape.
        """
        if (
            options_per_question is None
            and isinstance(texts_per_video, Tensor)
            and len(set(texts_per_video.flatten().tolist())) > 1
        ):
            raise ValueError(
                f"texts_per_video is {texts_per_video.tolist()}: expected the same number of options for each video; "
                "where questions have different numbers, give options_per_question."
            )
        clip_logits, visual = self.clip_logits(
            pixel_values, input_ids, attention_mask, texts_per_video, visual_embeds, text_lengths
        )
        flat = aggregate(clip_logits, self.config.score_aggregation)[:, 0]
        if options_per_question is None:
            logits = flat.view(visual.shape[0], -1)
            options = torch.full((len(logits),), logits.shape[1], device=flat.device)
        else:
            check_options(options_per_question, texts_per_video, visual.shape[0], len(flat))
            options = options_per_question.to(flat.device)
            # Where the number of options cannot be read, the row is as wide as it can be; the rest is masked.
            most = int(options.max()) if can_read_values(options) else len(flat)
            position = torch.arange(most, device=flat.device).expand(len(options), -1)
            row = (options.cumsum(0) - options)[:, None] + position
            # index_select instead of masked_scatter, whose backward pass waits for the number of options on a GPU
            logits = flat.index_select(0, row.flatten().clamp(max=len(flat) - 1)).view(row.shape)
            logits = logits.masked_fill(position >= options[:, None], float("-inf"))
        loss = None
        if labels is not None:
            check_labels(labels, "labels", (logits.shape[0],), classes=logits.shape[1])
            beyond = labels.to(options.device) >= options
            if can_read_values(beyond) and bool(beyond.any()):
                question = int(beyond.nonzero()[0])
                raise ValueError(
                    f"labels[{question}] is {int(labels[question])}: expected 0 to {int(options[question]) - 1} "
                    f"(the question has {int(options[question])} options)."
                )
            loss = cross_entropy(logits, labels, self.label_smoothing)
        return ClipBertOutput(loss=loss, logits=logits, clip_logits=clip_logits)
