"""CIDEr-D, BLEU-4, ROUGE-L and METEOR of generated captions, with the scorers of the COCO caption evaluation.

The scorers are those of pycocoevalcap (Chen et al., Microsoft COCO Captions, 2015); texts are split into words by
`clipbert.text_normalization.split_words` instead of the Stanford tokenizer, which knows English alone.
"""

import math
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from clipbert.text_normalization import split_words

NGRAMS, SIGMA = 4, 6.0  # parameters of CIDEr-D in the COCO evaluation
MAX_CANDIDATES = 2000


def words(text: str) -> str:
    """Return a caption as the scorers read it, with a space between the tokens of `split_words`."""
    return " ".join(split_words(text))


def cider(captions: list[str], references: list[list[str]]) -> np.ndarray:
    """Return CIDEr-D of each caption against the references of its video, 0 to 10 (Vedantam et al., CVPR 2015).

    The rarity of an n-gram is that among the given videos.
    """
    from pycocoevalcap.cider.cider import Cider  # not installed with the model alone

    _, scores = Cider().compute_score(*_tables(captions, references))
    return np.asarray(scores, dtype=float)


def bleu4_counts(captions: list[str], references: list[list[str]]) -> np.ndarray:
    """Return the counts (N, 10) from whose sums over captions `bleu4` computes corpus BLEU.

    The columns are the caption's length, the length of the reference closest to it, and for n-grams of 1 to 4 words
    how many the caption has and how many of them a reference has too.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    truth, found = _tables(captions, references)
    rows = []
    for video, reference in truth.items():
        scorer = BleuScorer(n=NGRAMS)
        scorer += (found[video][0], reference)
        counts = scorer.ctest[0]
        closest = min((abs(length - counts["testlen"]), length) for length in counts["reflen"])[1]
        rows.append([counts["testlen"], closest, *counts["guess"], *counts["correct"]])
    return np.asarray(rows, dtype=float)


def bleu4(sums: np.ndarray) -> np.ndarray:
    """Return BLEU-4 (S,), 0 to 1, of sums (S, 10) of `bleu4_counts` (Papineni et al., ACL 2002)."""
    length, closest, had, shared = sums[:, 0], sums[:, 1], sums[:, 2:6], sums[:, 6:10]
    precision = np.prod((shared + 1e-15) / (had + 1e-9), axis=1) ** (1 / NGRAMS)  # the scorer's own smallest numbers
    ratio = (length + 1e-15) / (closest + 1e-9)
    return np.asarray(precision * np.exp(np.minimum(0.0, 1 - 1 / ratio)))


def rouge_l(captions: list[str], references: list[list[str]]) -> np.ndarray:
    """Return ROUGE-L (N,) of each caption, 0 to 1 (Lin, 2004; F-measure with beta 1.2)."""
    from pycocoevalcap.rouge.rouge import Rouge

    truth, found = _tables(captions, references)
    _, scores = Rouge().compute_score(truth, found)
    return np.asarray(scores, dtype=float)


def meteor(systems: list[list[str]], references: list[list[str]]) -> list[float]:
    """Return METEOR 1.5 of the captions of each system, 0 to 1 (Denkowski and Lavie, WMT 2014).

    It runs the authors' program, for English, with the Java on the PATH. Starting it takes several seconds, because it
    reads a table of paraphrases; all systems share one process.

    Args:
        systems: captions of the same videos by several models.
        references: of each video.

    Raises:
        MeteorUnavailable: Java is missing, or the program failed.
    """
    if shutil.which("java") is None:
        raise MeteorUnavailable("METEOR needs Java, and there is no `java` on the PATH")
    import pycocoevalcap.meteor.meteor

    folder = Path(pycocoevalcap.meteor.meteor.__file__).parent
    command = ["java", "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        with subprocess.Popen(command, cwd=folder, text=True, encoding="utf-8", **pipes) as process:
            try:
                return [_meteor(process, captions, references) for captions in systems]
            finally:
                process.kill()
    except (OSError, ValueError) as error:
        raise MeteorUnavailable(f"METEOR's Java program failed ({error})") from error


def _meteor(process: Any, captions: list[str], references: list[list[str]]) -> float:
    """Return the score that METEOR's program prints for captions: statistics of each, then the score of all."""

    def ask(line: str, answers: int) -> list[str]:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        return [process.stdout.readline().strip() for _ in range(answers)]

    truth, found = _tables(captions, references)
    statistics = [ask(" ||| ".join(["SCORE", *truth[video], *found[video]]), 1)[0] for video in truth]
    return float(ask(" ||| ".join(["EVAL", *statistics]), len(statistics) + 1)[-1])


class MeteorUnavailable(Exception):
    """METEOR cannot be computed on this machine."""


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
