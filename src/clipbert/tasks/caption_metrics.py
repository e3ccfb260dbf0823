"""CIDEr, BLEU-4 and ROUGE-L of generated captions, with the scorers of the COCO caption evaluation."""

import math
from collections import Counter, defaultdict

import numpy as np

from clipbert.text_normalization import split_words

NGRAMS, SIGMA = 4, 6.0  # parameters of CIDEr-D in the COCO evaluation
MAX_CANDIDATES = 2000


def words(text: str) -> str:
    """Return a caption as the scorers read it, with a space between the tokens of `split_words`."""
    return " ".join(split_words(text))


def cider(captions: list[str], references: list[list[str]]) -> np.ndarray:
    """Return CIDEr-D of each caption against the references of its video, 0 to 10.

    The rarity of an n-gram is that among the given videos.
    """
    from pycocoevalcap.cider.cider import Cider  # not installed with the model alone

    _, scores = Cider().compute_score(*_tables(captions, references))
    return np.asarray(scores, dtype=float)


def bleu4_and_rouge(captions: list[str], references: list[list[str]]) -> tuple[float, float]:
    """Return the corpus BLEU-4 and the mean ROUGE-L, 0 to 1."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    truth, found = _tables(captions, references)
    bleu, _ = Bleu(4).compute_score(truth, found, verbose=0)
    rouge, _ = Rouge().compute_score(truth, found)
    return float(bleu[3]), float(rouge)


def best_constant(candidates: list[str], references: list[list[str]]) -> tuple[str, float]:
    """Return the candidate with the highest mean CIDEr-D when it is given to every video, and that mean.

    At most 2,000 different candidates are tried, evenly spaced in alphabetical order. An index from n-grams to the
    references that contain them takes a fraction of a second; the scorer itself would take minutes.
    """
    texts = sorted({words(text) for text in candidates} - {""})
    step = max(1, math.ceil(len(texts) / MAX_CANDIDATES))
    flat = [(video, _ngrams(words(text))) for video, some in enumerate(references) for text in some]
    seen: Counter[tuple[str, ...]] = Counter()
    for some in references:
        seen.update({gram for text in some for gram in _ngrams(words(text))})
    rarity = {gram: math.log(len(references)) - math.log(count) for gram, count in seen.items()}
    unseen = math.log(len(references))
    norms = np.zeros((NGRAMS, len(flat)))
    lengths = np.zeros(len(flat))
    index: dict[tuple[str, ...], list[tuple[int, float]]] = defaultdict(list)
    for row, (_, grams) in enumerate(flat):
        for gram, count in grams.items():
            weight = count * rarity[gram]
            norms[len(gram) - 1, row] += weight**2
            lengths[row] += count * (len(gram) == 2)
            index[gram].append((row, weight))
    norms = np.sqrt(norms)
    postings = {g: (np.array([r for r, _ in p]), np.array([w for _, w in p])) for g, p in index.items()}
    shares = np.array([1 / len(references[video]) for video, _ in flat]) / len(references)
    best, best_score = "", -1.0
    for text in texts[::step]:
        grams = _ngrams(text)
        similarity, norm, length = np.zeros((NGRAMS, len(flat))), np.zeros(NGRAMS), 0
        for gram, count in grams.items():
            n, weight = len(gram) - 1, count * rarity.get(gram, unseen)
            norm[n] += weight**2
            length += count * (n == 1)
            if gram in postings:
                rows, weights = postings[gram]
                similarity[n, rows] += np.minimum(weight, weights) * weights
        scale = np.sqrt(norm)[:, None] * norms
        similarity = np.divide(similarity, scale, out=similarity, where=scale > 0)
        near = np.exp(-((length - lengths) ** 2) / (2 * SIGMA**2))
        score = 10 * float((similarity.mean(axis=0) * near * shares).sum())
        if score > best_score:
            best, best_score = text, score
    return best, best_score


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    parts = text.split()
    return Counter(tuple(parts[i : i + n]) for n in range(1, NGRAMS + 1) for i in range(len(parts) - n + 1))


def _tables(captions: list[str], references: list[list[str]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return the references and the captions by video number, as the scorers read them."""
    truth = {i: [words(text) for text in some] for i, some in enumerate(references)}
    return truth, {i: [words(text)] for i, text in enumerate(captions)}
