"""The scores of a trained model. Evaluation, `clipbert.pipeline` and the MLflow model all call these functions.

Each step between candidate frames and a score is here once: which clips are shown, how frames are resized, how texts
are cleaned and tokenized, and how logits become the numbers that users and the promotion gate see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipbert.config.schema import FramesParams
from clipbert.frame_cache import FrameCache
from clipbert.model.generation import Decoding
from clipbert.model.losses import aggregate
from clipbert.model.processor_file import FRAME_SETTINGS
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import Segment

VIDEOS_AT_ONCE = 16
SMALLEST = 1e-12  # probability in a logarithm


class CandidateFrames(Protocol):
    """The candidate frames of one video, in time order."""

    def __len__(self) -> int: ...

    def read(self, indices: NDArray[np.int64]) -> Sequence[NDArray[np.uint8]] | NDArray[np.uint8]:
        """Return the frames `indices`, each (H, W, 3) uint8 RGB; from a feature cache, their features."""


@dataclass(frozen=True)
class CachedFrames:
    """The candidate frames that the frame cache holds of one media, or of a segment of it."""

    cache: FrameCache
    media: str
    segment: Segment | None = None

    def __len__(self) -> int:
        if self.segment is None:
            return self.cache.num_frames(self.media)
        return len(self.segment.frames(self.cache[self.media].times))

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the frames `indices` as (len(indices), H, W, 3); no others are decoded."""
        if self.segment is None:
            return self.cache.read(self.media, indices)
        inside = self.segment.frames(self.cache[self.media].times)
        return self.cache.read(self.media, np.asarray(inside)[indices])


def cached_frames_params(cache: FrameCache) -> FramesParams:
    """Return how the frames of a cache were taken from the files, so that others can take the same."""
    return FramesParams(**{name: cache.settings[name] for name in FRAME_SETTINGS})


@dataclass(frozen=True)
class ProcessorTokens:
    """A processor's tokenizer, with tensors on `device`."""

    processor: Any
    device: torch.device

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `attention_mask`, each (N, L); white space is collapsed as ingest does."""
        encoded = self.processor(texts=[" ".join(text.split()) if isinstance(text, str) else text for text in texts])
        return encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)

    def decode(self, ids: Tensor) -> list[str]:
        """Return the texts of token ids (N, L), without special tokens."""
        return list(self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True))


def is_features(frames: object) -> bool:
    """Return whether what `CandidateFrames.read` gave are features of frames, not the frames."""
    return isinstance(frames, np.ndarray) and np.issubdtype(frames.dtype, np.floating)


Arrange = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def clip_pixels(processor: Any, frames: CandidateFrames, clips: int, arrange: Arrange | None = None) -> Tensor:
    """Return the pixels (K, T, 3, S, S) uint8 of `clips` uniform clips of a video, always the same ones.

    Of a video in a feature cache, return the features (K, T, ...).

    Args:
        arrange: gives other frames than those of the clips: from their indices (K, T) to indices (K, T).
    """
    indices = uniform_clips(len(frames), clips, processor.frames_per_clip)
    if arrange is not None:
        indices = arrange(indices)
    wanted, inverse = np.unique(indices, return_inverse=True)
    read = frames.read(wanted)
    if isinstance(read, np.ndarray) and is_features(read):
        return torch.from_numpy(read[inverse.reshape(-1)]).unflatten(0, indices.shape)
    squares = np.stack([processor.square(image) for image in read])
    shown = torch.from_numpy(squares[inverse.reshape(-1)])
    return shown.permute(0, 3, 1, 2).unflatten(0, indices.shape)


@torch.inference_mode()
def encode_clips(
    model: Any,
    processor: Any,
    videos: Sequence[CandidateFrames],
    clips: int,
    blank: bool = False,
    arrange: Arrange | None = None,
) -> list[Tensor]:
    """Return the visual tokens (K, V, hidden) of each video's uniform clips; `blank`: of black frames instead.

    Args:
        arrange: as in `clip_pixels`.
    """
    device = next(model.parameters()).device
    embeds: list[Tensor] = []
    for start in range(0, len(videos), VIDEOS_AT_ONCE):
        # numpy stacks: torch.stack refuses float16 features under a CPU's bf16 autocast
        some = videos[start : start + VIDEOS_AT_ONCE]
        shown = torch.from_numpy(np.stack([clip_pixels(processor, video, clips, arrange).numpy() for video in some]))
        if not shown.is_floating_point():
            embeds += list(model.encode_video((torch.zeros_like(shown) if blank else shown).to(device)))
        elif blank:
            shape = (*shown.shape[:3], 3, processor.image_size, processor.image_size)
            embeds += list(model.encode_video(torch.zeros(shape, dtype=torch.uint8, device=device)))
        else:
            embeds += list(model.encode_features(shown.to(device)))
    return embeds


@dataclass(frozen=True)
class Ranking:
    """A gallery of G videos ranked for one text.

    Attributes:
        reranked: (J,) positions of the videos that the cross-encoder scored, ascending.
        scores: (J,) their scores.
        similarity: (G,) scaled dual-encoder similarities; None where the model has no dual encoder.
    """

    reranked: Tensor
    scores: Tensor
    similarity: Tensor | None


def rank_gallery(
    model: Any,
    visual_embeds: Tensor,
    vectors: Tensor | None,
    input_ids: Tensor,
    attention_mask: Tensor,
    batch_size: int,
    rerank: int | None = None,
) -> Ranking:
    """Score one text against a gallery of videos.

    Args:
        visual_embeds: (G, K, V, hidden).
        vectors: (G, P) `model.get_video_features` of the gallery; None where the model has no dual encoder.
        input_ids, attention_mask: (1, L).
        batch_size: text-video pairs in one forward pass.
        rerank: how many videos the cross-encoder scores, those of the highest similarity; None: all.

    Raises:
        ValueError: `rerank` without a dual encoder.
    """
    reranked, similarity = torch.arange(len(visual_embeds), device=input_ids.device), None
    if vectors is not None:
        similarity = similarities(model, model.get_text_features(input_ids, attention_mask), vectors)[0]
    if rerank is not None:
        if similarity is None:
            raise ValueError("rerank needs a dual encoder, which this model does not have: projection_size is None.")
        reranked = most_similar(similarity, rerank)
    seen = visual_embeds if len(reranked) == len(visual_embeds) else visual_embeds[reranked]
    rows = (input_ids.expand(len(seen), -1), attention_mask.expand(len(seen), -1))
    own = None if similarity is None else similarity[reranked]
    return Ranking(reranked, match_scores(model, seen, *rows, own, batch_size), similarity)


def similarities(model: Any, text_features: Tensor, vectors: Tensor) -> Tensor:
    """Return the dual encoder's similarities (N, G) of texts (N, P) and videos (G, P), in fp32 also under autocast.

    Bf16 has three digits: many videos of a gallery would tie.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        found: Tensor = model.similarity(text_features.float(), vectors.float()).float()
    return found


def match_scores(
    model: Any,
    visual_embeds: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    similarity: Tensor | None,
    batch_size: int,
) -> Tensor:
    """Return the retrieval scores (N,) of N pairs of a video and a text: the cross-encoder's log odds of a match, plus
    the dual encoder's similarity (N,) where the model has one (as BLIP adds the two, Li et al. 2022).

    Where `config.cross_encoder` is False, the score is the similarity.
    """
    if not model.config.cross_encoder and similarity is not None:
        return similarity
    found = []
    for start in range(0, len(input_ids), batch_size):
        rows = slice(start, start + batch_size)
        out = model(
            visual_embeds=visual_embeds[rows],
            input_ids=input_ids[rows],
            attention_mask=attention_mask[rows],
            texts_per_video=torch.ones_like(input_ids[rows, 0]),
        )
        found.append(model.match_scores(out.logits.float()))
    scores = torch.cat(found)
    return scores if similarity is None else scores + similarity


def pair_similarity(model: Any, visual_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
    """Return the dual encoder's similarities (N,) of N texts with the one video (1, K, V, hidden); None without one."""
    if model.contrast is None:
        return None
    texts = model.get_text_features(input_ids, attention_mask)
    similarity: Tensor = model.similarity(texts, model.get_video_features(visual_embeds))[:, 0]
    return similarity.float()


def answer_probabilities(model: Any, visual_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the probabilities (N, answers) of N questions, each with its video (N, K, V, hidden)."""
    out = model(
        visual_embeds=visual_embeds,
        input_ids=input_ids,
        attention_mask=attention_mask,
        texts_per_video=torch.ones_like(input_ids[:, 0]),
    )
    logits: Tensor = out.logits.float()
    return logits.sigmoid() if model.config.answer_loss == "bce" else logits.softmax(dim=1)


def losses_of(probabilities: Tensor, right: Sequence[int]) -> list[float]:
    """Return the negative log-probability of the right class of each row of (N, classes); NaN where it is negative."""
    chosen = torch.tensor(right, device=probabilities.device)
    found = -probabilities.gather(1, chosen.clamp(min=0)[:, None])[:, 0].clamp(min=SMALLEST).log()
    return found.masked_fill(chosen < 0, float("nan")).tolist()


def option_texts(question: str, options: Sequence[str]) -> list[str]:
    """Return the text that the model reads of each option: the question followed by the option."""
    return [f"{question} {option}" for option in options]


def option_probabilities(
    model: Any, visual_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor, options: Tensor
) -> Tensor:
    """Return the probabilities (Q, most options) of Q questions, each with its video (Q, K, V, hidden).

    Args:
        input_ids, attention_mask: (N, L), the options of all questions one after another.
        options: (Q,) how many options each question has, sum = N; beyond them the probability is 0.
    """
    out = model(
        visual_embeds=visual_embeds,
        input_ids=input_ids,
        attention_mask=attention_mask,
        texts_per_video=options,
        options_per_question=options,
    )
    probabilities: Tensor = out.logits.float().softmax(dim=1)
    return probabilities


def write_captions(
    model: Any, visual_embeds: Tensor, start: int, end: int, generation: dict[str, Any]
) -> tuple[Tensor, list[float]]:
    """Return a caption's token ids (B, length) and log-probability for each video (B, K, V, hidden).

    Args:
        generation: fields of `Decoding`; `max_length` beyond the model's positions is lowered to them.
    """
    longest = model.config.max_position_embeddings
    decoding = Decoding(**generation | {"max_length": min(generation["max_length"], longest)})
    ids, scores = model.generate(visual_embeds=visual_embeds, start=start, end=end, decoding=decoding)
    return ids, scores.tolist()


def matched_probabilities(model: Any, itm_logits: Tensor) -> Tensor:
    """Return a pretrained model's probabilities (N,) that text and image match, of its logits (N, K, 2)."""
    probabilities: Tensor = aggregate(itm_logits, model.config.score_aggregation).float().softmax(dim=1)[:, 1]
    return probabilities


def most_similar(similarity: Tensor, count: int, truth: int | None = None) -> Tensor:
    """Return the positions of the `count` most similar videos, ascending; of equal ones `truth` counts as the last."""
    last = torch.arange(len(similarity), device=similarity.device) == (-1 if truth is None else truth)
    order = torch.cat([(~last).nonzero().flatten(), last.nonzero().flatten()])
    best = similarity[order].argsort(descending=True, stable=True)[:count]
    return order[best].sort().values
