"""Scores of the texts of an evaluation with the videos of its gallery, block by block, with bounded memory.

Texts are sorted by their number of tokens and cut into blocks; a block is scored with all videos of the gallery. Memory
holds the visual tokens of the gallery once (of each process: of its own videos), the scores of one block, which are at
most `MAX_BLOCK_SCORES` or those of one text, and the pairs of one forward pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipbert.console import progress
from clipbert.distributed.context import DistributedContext
from clipbert.evaluation.metrics.ranking import mean_rank_of
from clipbert.tasks.batch import Encoded, Tokenize
from clipbert.tasks.score_store import ScoreStore
from clipbert.tasks.scoring import VIDEOS_AT_ONCE, match_scores, most_similar, similarities

MAX_BLOCK_SCORES = 2**22  # of texts with videos: 16 MiB
MAX_BLOCK_TEXTS = 256
BATCHES_PER_BLOCK = 16  # forward passes, so that a killed evaluation loses few
TEXTS_AT_ONCE = 1024  # tokenized together to count their tokens
# Pairs of a text and a clip in one pass on a CPU, whose caches do not hold the states of more: with 256 of them a
# token takes a fifth longer.
SEQUENCES_ON_CPU = 64
NOT_RERANKED = np.float32(-np.inf)


@dataclass(frozen=True)
class ScoreBlock:
    """The scores of R texts with the G videos of a gallery.

    Attributes:
        texts: (R,) positions of the texts.
        scores: (R, G) float32, `NOT_RERANKED` where the dual encoder ranks alone.
        similarity: (R, G) scaled dual-encoder similarities; None where the model has no dual encoder.
    """

    texts: NDArray[np.int64]
    scores: NDArray[np.float32]
    similarity: NDArray[np.float32] | None

    def repeat(self, count: int) -> "ScoreBlock":
        """Return the block of a gallery of `count` copies of this gallery's one video; no score is copied."""
        shape = (len(self.texts), count)
        similarity = None if self.similarity is None else np.broadcast_to(self.similarity, shape)
        return ScoreBlock(self.texts, np.broadcast_to(self.scores, shape), similarity)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, as a store keeps them."""
        return {name: value for name, value in vars(self).items() if value is not None}


def text_blocks(lengths: NDArray[np.int64], gallery: int, pairs: int, batch_size: int) -> list[NDArray[np.int64]]:
    """Return the positions of the texts of each block, the shortest texts first and equally long ones in their order.

    Args:
        lengths: (N,) tokens of each text.
        gallery: number of videos.
        pairs: videos of each text that the cross-encoder scores.
        batch_size: text-video pairs in one forward pass.
    """
    most = max(1, min(MAX_BLOCK_TEXTS, MAX_BLOCK_SCORES // gallery, BATCHES_PER_BLOCK * batch_size // pairs))
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + most] for start in range(0, len(order), most)]


def rank_in_row(scores: NDArray[np.float32], similarity: NDArray[np.float32] | None, truth: int) -> float:
    """Return the rank of the video `truth` for a text; entries with equal scores share their mean rank.

    Videos that were not reranked are below those that were, in the dual encoder's order.

    Args:
        scores: (G,) of a `ScoreBlock`.
        similarity: (G,); needed only where videos were not reranked.

    Raises:
        ValueError: a score is NaN.
    """
    if scores[truth] != NOT_RERANKED:
        return mean_rank_of(scores, truth)
    assert similarity is not None
    rest = np.flatnonzero(scores == NOT_RERANKED)
    return len(scores) - len(rest) + mean_rank_of(similarity[rest], int(np.searchsorted(rest, truth)))


def own_videos(count: int, context: DistributedContext) -> slice:
    """Return the positions of the videos that this process encodes and scores; those of all processes are `count`."""
    return slice(count * context.rank // context.world, count * (context.rank + 1) // context.world)


@dataclass(frozen=True)
class GalleryScores:
    """The scores of N texts with the G videos of a gallery.

    Attributes:
        model: a retrieval model.
        videos: the encoded videos of this process (`own_videos`), or more.
        gallery: the keys of the G videos.
        texts: the N texts.
        owners: (N,) the position of each text's own video; of equally similar videos it is reranked last.
        batch_size: text-video pairs in one forward pass.
        rerank: how many videos of a text the cross-encoder scores, those of the highest similarity; None: all.
        context: the processes that share the gallery.
        store: keeps finished blocks; the first process alone has one.
    """

    model: Any
    videos: Encoded
    gallery: Sequence[str]
    texts: Sequence[str]
    owners: NDArray[np.int64]
    tokenize: Tokenize
    batch_size: int
    rerank: int | None = None
    context: DistributedContext = field(default_factory=DistributedContext)
    store: ScoreStore | None = None

    def blocks(self) -> Iterator[ScoreBlock]:
        """Yield the blocks, those of the store without scoring them; all processes must exhaust the iterator.

        Only the first process gets blocks.
        """
        vectors = text_features = None
        if self.model.contrast is not None:
            vectors, text_features = self._video_vectors(), self._text_features()
        pairs = min(self.rerank or len(self.gallery), len(self.gallery))
        plan = text_blocks(self._token_counts(), len(self.gallery), pairs, self.batch_size)
        done = self.context.gather(set(self.store.finished()) if self.store else set())[0]
        for index, texts in enumerate(plan):
            if index not in done:
                similarity = None
                if text_features is not None and vectors is not None:
                    rows = torch.from_numpy(texts).to(vectors.device)
                    similarity = similarities(self.model, text_features[rows], vectors).cpu().numpy()
                scores = self._scores(texts, similarity)
                if not self.context.first:
                    continue
                block = ScoreBlock(texts, scores, similarity)
                if self.store is not None:
                    self.store.write(index, block.arrays())
                yield block
            elif self.store is not None:
                yield self._stored(index)

    def blocks_with_progress(self, title: str) -> Iterator[ScoreBlock]:
        """Yield `blocks` and show the progress over the texts."""
        with progress(title, len(self.texts)) as advance:
            for block in self.blocks():
                yield block
                advance(len(block.texts), "")

    def stored_blocks(self) -> Iterator[ScoreBlock]:
        """Yield the blocks of the store once more, one at a time."""
        assert self.store is not None
        for index in self.store.finished():
            yield self._stored(index)

    def _stored(self, index: int) -> ScoreBlock:
        assert self.store is not None
        arrays = self.store.read(index)
        return ScoreBlock(arrays["texts"], arrays["scores"], arrays.get("similarity"))

    def _scores(self, texts: NDArray[np.int64], similarity: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Return the scores (R, G) of texts; each process computes the columns of its own videos."""
        chosen = np.ones((len(texts), len(self.gallery)), dtype=bool)
        if self.rerank is not None:
            assert similarity is not None
            chosen[:] = False
            for row, text in enumerate(texts.tolist()):
                best = most_similar(torch.from_numpy(similarity[row]), self.rerank, int(self.owners[text]))
                chosen[row, best.numpy()] = True
        if similarity is not None and not self.model.config.cross_encoder:
            return np.where(chosen, similarity, NOT_RERANKED)
        columns = own_videos(len(self.gallery), self.context)
        found = np.full((len(texts), columns.stop - columns.start), NOT_RERANKED)
        own_similarity = None if similarity is None else similarity[:, columns]
        input_ids, attention_mask = self.tokenize([self.texts[text] for text in texts])
        rows, places = np.nonzero(chosen[:, columns])  # pairs text by text, so that pairs of a pass are equally long
        size = self._pairs_per_pass(input_ids.device)
        for start in range(0, len(rows), size):
            of, place = rows[start : start + size], places[start : start + size]
            of_pairs = torch.from_numpy(of).to(input_ids.device)
            visual = self.videos.of(self.gallery[columns.start + column] for column in place.tolist())
            pairs = None if own_similarity is None else torch.from_numpy(own_similarity[of, place]).to(visual.device)
            scored = match_scores(self.model, visual, input_ids[of_pairs], attention_mask[of_pairs], pairs, size)
            found[of, place] = scored.float().cpu().numpy()
        return np.concatenate(self.context.gather(found), axis=1)

    def _pairs_per_pass(self, device: torch.device) -> int:
        if device.type != "cpu":
            return self.batch_size
        clips = self.videos.visual_embeds[0].shape[0]
        return min(self.batch_size, max(1, SEQUENCES_ON_CPU // clips))

    def _video_vectors(self) -> Tensor:
        """Return the vectors (G, P) of all videos."""
        own = self.gallery[own_videos(len(self.gallery), self.context)]
        parts = [
            self.model.get_video_features(self.videos.of(own[start : start + VIDEOS_AT_ONCE]))
            for start in range(0, len(own), VIDEOS_AT_ONCE)
        ]
        if self.context.world == 1:
            return torch.cat(parts)
        device = parts[0].device if parts else next(self.model.parameters()).device
        gathered = self.context.gather(torch.cat(parts).cpu() if parts else None)
        return torch.cat([vectors.to(device) for vectors in gathered if vectors is not None])

    def _text_features(self) -> Tensor:
        """Return the vectors (N, P) of all texts, computed in batches of texts of similar length."""
        order = sorted(range(len(self.texts)), key=lambda index: len(self.texts[index]))
        parts = []
        for start in range(0, len(order), self.batch_size):
            tokens = self.tokenize([self.texts[index] for index in order[start : start + self.batch_size]])
            parts.append(self.model.get_text_features(*tokens))
        sorted_features = torch.cat(parts)
        return sorted_features[torch.as_tensor(np.argsort(order, kind="stable"), device=sorted_features.device)]

    def _token_counts(self) -> NDArray[np.int64]:
        """Return the number of tokens (N,) of each text."""
        counts = []
        for start in range(0, len(self.texts), TEXTS_AT_ONCE):
            mask = self.tokenize(list(self.texts[start : start + TEXTS_AT_ONCE]))[1]
            counts.append(mask.sum(dim=1).cpu().numpy())
        return np.concatenate(counts)
