"""What a model folder says about trust in an answer: `confidence.json`.

A temperature makes the probabilities of answers fit how often they are right (Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017). Words of the training texts, and the mean visual tokens of training videos, show which
input is unlike them.
"""

import base64
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clipbert.errors import ModelFolderError
from clipbert.files.atomic import write_json

CONFIDENCE_FILE = "confidence.json"
NEIGHBORS = 5
QUANTILE = 0.99
SMALLEST = 1e-9
MOST_WORDS = 50_000
WORD = re.compile(r"\w+(?:'\w+)?")
REMEDY = "Train the model again, or remove the file: answers then have no calibrated confidence."


@dataclass(frozen=True)
class Calibration:
    """Temperature of the answers, fitted on the validation questions.

    Attributes:
        temperature: by which log-probabilities are divided; above 1 where the model is too sure.
        questions: how many it was fitted on.
        ece_before, ece_after: expected calibration error on them, in percent.
    """

    temperature: float
    questions: int
    ece_before: float
    ece_after: float

    def confidences(self, probabilities: Sequence[float]) -> list[float]:
        """Return the calibrated probabilities of all answers to a question."""
        logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), 1e-30)) / self.temperature
        shares = np.exp(logs - logs.max())
        return list((shares / shares.sum()).tolist())


@dataclass(frozen=True)
class KnownVideos:
    """Mean visual tokens of training videos. The distance of a video is the mean to its nearest ones (Sun et al.,
    "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022).

    Attributes:
        vectors: (N, hidden) float16, the bytes of the array in base64.
        hidden: size of a vector.
        limit: 99th percentile of the distance of the validation videos.
    """

    vectors: str
    hidden: int
    limit: float

    @classmethod
    def fit(cls, training: NDArray[np.float64], validation: NDArray[np.float64]) -> "KnownVideos":
        """Keep the vectors of training videos (N, hidden), with the limit of validation videos (M, hidden)."""
        text = base64.b64encode(training.astype("<f2").tobytes()).decode()
        found = cls(text, training.shape[1], 1.0)
        limit = float(np.quantile(found.distances(validation), QUANTILE))
        return cls(text, training.shape[1], max(limit, SMALLEST))

    @cached_property
    def _known(self) -> NDArray[np.float64]:
        known = np.frombuffer(base64.b64decode(self.vectors, validate=True), "<f2").reshape(-1, self.hidden)
        return known.astype(np.float64)

    def distances(self, videos: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distances (M,) of videos (M, hidden)."""
        apart = np.stack([np.sqrt(((self._known - video) ** 2).sum(axis=1)) for video in videos])
        found: NDArray[np.float64] = np.sort(apart, axis=1)[:, :NEIGHBORS].mean(axis=1)
        return found


@dataclass(frozen=True)
class Confidence:
    """Content of `confidence.json`; a part that the task does not have, or that could not be measured, is None."""

    calibration: Calibration | None = None
    videos: KnownVideos | None = None
    words: list[str] = field(default_factory=list)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that no training text has, in their order; empty where these are not stored."""
        known = set(self.words)
        found = dict.fromkeys(word for word in words_of(text) if word not in known and not word.isdigit())
        return list(found) if known else []

    def save(self, folder: Path) -> Path:
        """Write the file into a model folder, and return its path."""
        path = folder / CONFIDENCE_FILE
        write_json(path, {name: value for name, value in asdict(self).items() if value})
        return path


def mean_tokens(embeds: Tensor) -> NDArray[np.float64]:
    """Return the mean (hidden,) of the visual tokens (K, V, hidden) of a video."""
    found: NDArray[np.float64] = embeds.float().mean(dim=(0, 1)).double().cpu().numpy()
    return found


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return WORD.findall(text.lower())


def training_words(texts: Iterable[str]) -> list[str]:
    """Return the words of training texts in alphabetical order; none where there are more than `MOST_WORDS`."""
    found = sorted({word for text in texts for word in words_of(text)})
    return found if len(found) <= MOST_WORDS else []


def read_confidence(folder: str | Path) -> Confidence | None:
    """Read the file of a model folder; None for a folder without it, as earlier versions wrote.

    Raises:
        ModelFolderError: the file has another content.
    """
    path = Path(folder) / CONFIDENCE_FILE
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        calibration, videos = stored.get("calibration"), stored.get("videos")
        found = Confidence(
            None if calibration is None else Calibration(**calibration),
            None if videos is None else KnownVideos(**videos),
            list(stored.get("words", [])),
        )
        if found.calibration is not None and not 0 < found.calibration.temperature < math.inf:
            raise ValueError(f"calibration.temperature is {found.calibration.temperature}: expected above 0")
        if found.videos is not None:
            found.videos.distances(np.zeros((1, found.videos.hidden)))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelFolderError(f"{path}: not what a training writes ({error}). {REMEDY}") from error
    return found
