"""Ranking metrics of retrieval in both directions: recall at k, ranks, mean reciprocal rank and nDCG.

Ranks are 1-based. Items with equal scores share the mean of their ranks ("fractional ranking"), so a constant score has
the ranks of chance instead of the best or the worst ones.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_CELLS = 16_000_000  # of one comparison of scores in memory


def mean_rank_of(scores: Any, target: int) -> float:
    """Return the rank of the entry `target` in one ranking; entries with equal scores share their mean rank.

    Args:
        scores: (G,) array or tensor, higher is better.

    Raises:
        ValueError: a score is NaN.
    """
    if bool((scores != scores).any()):
        raise ValueError("a score is not a number")
    own = scores[target]
    return float((scores > own).sum()) + (float((scores == own).sum()) + 1) / 2


def ranks_of_texts(scores: ArrayLike, owners: ArrayLike) -> NDArray[np.float64]:
    """Return the rank (N,) of each text for its own video among the texts of all other videos (video-to-text).

    Other texts of the same video are right answers too and do not count as competitors. The rank of a video's best
    text, the usual measure of a video with several captions (Faghri et al., VSE++, BMVC 2018, and its code), is the
    minimum over its texts.

    Args:
        scores: (N, G) score of each text with each video, higher is better.
        owners: (N,) the video of each text.

    Raises:
        ValueError: a score is NaN.
    """
    matrix, of_text = np.asarray(scores), np.asarray(owners, dtype=np.int64)
    rows = np.arange(len(matrix))
    return ranks_of_texts_in_blocks(matrix[rows, of_text], of_text, [(rows, matrix)])


def ranks_of_texts_in_blocks(
    own: ArrayLike, owners: ArrayLike, blocks: Iterable[tuple[NDArray[np.int64], NDArray[Any]]]
) -> NDArray[np.float64]:
    """Return what `ranks_of_texts` returns, from blocks of the score matrix that are in memory one at a time.

    Args:
        own: (N,) the score of each text with its own video.
        owners: (N,) the video of each text.
        blocks: the positions (R,) of texts, and their scores (R, G); together all N texts, in any order.

    Raises:
        ValueError: a score is NaN.
    """
    right, of_text = np.asarray(own), np.asarray(owners, dtype=np.int64)
    above, equal = np.zeros(len(right)), np.zeros(len(right))
    for texts, scores in blocks:
        if np.isnan(scores).any():
            raise ValueError("a score is not a number")
        each = max(1, MAX_CELLS // max(1, len(texts)))
        for start in range(0, len(right), each):
            part = slice(start, start + each)
            found = scores[:, of_text[part]]
            other = of_text[texts][:, None] != of_text[part]
            above[part] += ((found > right[part]) & other).sum(axis=0)
            equal[part] += ((found == right[part]) & other).sum(axis=0)
    return 1 + above + equal / 2


def best_ranks(ranks: ArrayLike, owners: ArrayLike) -> NDArray[np.float64]:
    """Return the smallest rank of each owner, in the owners' sorted order."""
    values = np.asarray(ranks, dtype=np.float64)
    _, positions = np.unique(np.asarray(owners), return_inverse=True)
    best = np.full(int(positions.max(initial=-1)) + 1, np.inf)
    np.minimum.at(best, positions.reshape(-1), values)
    return best


def hits_at_k(ranks: ArrayLike, k: int) -> NDArray[np.bool_]:
    """Return whether the (first) right item of each query is among the first `k`."""
    return np.asarray(ranks) <= k


def recall_at_k(ranks: ArrayLike, k: int) -> float:
    """Return the percentage of queries whose (first) right item is among the first `k`; retrieval's R@k."""
    return 100 * float(hits_at_k(ranks, k).mean())


def reciprocal_ranks(ranks: ArrayLike) -> NDArray[np.float64]:
    """Return 1 / rank of each query; their mean is the mean reciprocal rank, MRR (Voorhees, TREC-8, 1999)."""
    return 1 / np.asarray(ranks, dtype=np.float64)


def gains(ranks: ArrayLike) -> NDArray[np.float64]:
    """Return 1 / log2(1 + rank) of each rank: nDCG of a query with one right item (Järvelin and Kekäläinen, 2002)."""
    return np.asarray(1 / np.log2(1 + np.asarray(ranks, dtype=np.float64)))


def ndcg_of_several(ranks: ArrayLike, owners: ArrayLike) -> NDArray[np.float64]:
    """Return nDCG (0 to 1) of each query with several right items (Järvelin and Kekäläinen, 2002), binary relevance.

    Args:
        ranks: (N,) of each right item among the wrong ones, as `ranks_of_texts` returns them.
        owners: (N,) the query of each right item; the result is in the queries' sorted order.
    """
    values, of_item = np.asarray(ranks, dtype=np.float64), np.asarray(owners)
    order = np.lexsort((values, of_item))
    _, starts, counts = np.unique(of_item[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, counts)  # of a right item among the right ones, from 0
    sums = np.add.reduceat(gains(values[order] + place), starts)
    ideal = np.add.reduceat(gains(1 + place), starts)
    return np.asarray(sums / ideal)


def choice_accuracy(scores: ArrayLike, right: ArrayLike) -> float:
    """Return the percentage of rows whose right column has the highest score, as MSRVTT-MC over its five captions
    (Yu et al., JSFusion, ECCV 2018); of several highest columns a random one is chosen.

    Args:
        scores: (Q, O) score of each video with its O captions.
        right: (Q,) the column of the right one.

    Raises:
        ValueError: a score is NaN.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if np.isnan(matrix).any():
        raise ValueError("a score is not a number")
    highest = matrix == matrix.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(highest, np.asarray(right, dtype=np.int64)[:, None], axis=1)[:, 0]
    return 100 * float((chosen / highest.sum(axis=1)).mean())


def expected_choice(ranks: ArrayLike, others: ArrayLike, options: int = 5) -> NDArray[np.float64]:
    """Return the probability that each right text beats `options` - 1 wrong ones drawn without replacement.

    Its mean is the expected accuracy of MSRVTT-MC's protocol (Yu et al., 2018) over all choices of wrong captions,
    instead of one random choice.

    Args:
        ranks: (N,) of the right text among the wrong ones, as `ranks_of_texts` returns them.
        others: (N,) or a number, how many wrong texts there are.
    """
    better = np.asarray(ranks, dtype=np.float64) - 1
    count = np.broadcast_to(np.asarray(others, dtype=np.float64), better.shape)
    chance = np.ones(better.shape)
    for drawn in range(options - 1):
        left = count - drawn
        chance *= np.clip(np.divide(left - better, left, out=np.ones(better.shape), where=left > 0), 0, 1)
    return chance
