"""The file confidence.json of a model folder, and what it says about new videos and texts."""

import json
from pathlib import Path

import numpy as np
import pytest

from clipbert.errors import ModelFolderError
from clipbert.model.confidence import (
    CONFIDENCE_FILE,
    Calibration,
    Confidence,
    KnownVideos,
    read_confidence,
    training_words,
)


def known_videos() -> KnownVideos:
    generator = np.random.default_rng(0)
    return KnownVideos.fit(generator.normal(size=(300, 8)), generator.normal(size=(200, 8)))


def test_videos_far_from_the_training_are_beyond_the_limit() -> None:
    known = known_videos()
    new = np.random.default_rng(1).normal(size=(500, 8))
    assert (known.distances(new) > known.limit).mean() < 0.05
    assert (known.distances(new + 5) > 2 * known.limit).all()


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Confidence(Calibration(1.5, 300, 12.0, 3.0), known_videos(), training_words(["A red circle", "it's red"]))
    assert written.save(tmp_path) == tmp_path / CONFIDENCE_FILE
    found = read_confidence(tmp_path)
    assert found == written
    assert found is not None
    assert found.videos is not None
    assert found.words == ["a", "circle", "it's", "red"]
    assert found.unknown_words("Is it's RED circle a blue one, or 3 blue ones?") == ["is", "blue", "one", "or", "ones"]
    assert Confidence().unknown_words("anything") == []
    Confidence().save(tmp_path)
    assert read_confidence(tmp_path) == Confidence()
    (tmp_path / CONFIDENCE_FILE).unlink()
    assert read_confidence(tmp_path) is None


def test_a_temperature_above_one_makes_less_sure() -> None:
    assert Calibration(1.0, 1, 0, 0).confidences([0.8, 0.2, 0.0]) == pytest.approx([0.8, 0.2, 0.0])
    assert Calibration(2.0, 1, 0, 0).confidences([0.8, 0.2]) == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(
    "stored",
    [
        [],
        {"calibration": {"temperature": 0.0, "questions": 1, "ece_before": 0, "ece_after": 0}},
        {"calibration": {"temperature": "hot", "questions": 1, "ece_before": 0, "ece_after": 0}},
        {"calibration": {"degrees": 1}},
        {"videos": {"vectors": "AAA=", "hidden": 8, "limit": 1.0}},
        {"videos": {"vectors": "?", "hidden": 8, "limit": 1.0}},
    ],
)
def test_another_content_is_named(tmp_path: Path, stored: object) -> None:
    (tmp_path / CONFIDENCE_FILE).write_text(json.dumps(stored))
    with pytest.raises(
        ModelFolderError, match=r"confidence\.json: not what a training writes \(.*Train the model again"
    ):
        read_confidence(tmp_path)
