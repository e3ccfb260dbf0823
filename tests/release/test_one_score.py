"""Evaluation, `clipbert.pipeline` and the MLflow model give one score for the same frames, question and model."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import Model

from clipbert import pipeline
from clipbert.data.manifest import read_texts
from clipbert.frames import FrameCache
from clipbert.frames.given import read_given
from clipbert.params import Params
from clipbert.release.registry import _save
from clipbert.tasks import make_task
from clipbert.tasks.predict import predict
from clipbert.train.setup import build_model

TASKS = ["retrieval", "open_qa", "multiple_choice", "image_qa", "captioning"]
MEDIA = 3  # of each task's test split
SAME_FRAMES = 1e-5
# JPEG quality 90, as in the frame cache. Largest difference of these random models with large weights: 0.06.
CACHED_FRAMES = 0.2


class DecodedCache:
    """The frame cache's interface over frames decoded from the files themselves, without JPEG between."""

    def __init__(self, data: Path, params: Params) -> None:
        self.data, self.params, self.read_files = data, params, dict[str, np.ndarray]()

    def images(self, media: str) -> np.ndarray:
        if media not in self.read_files:
            self.read_files[media] = read_given(self.data / media, self.params.frames)
        return self.read_files[media]

    def num_frames(self, media: str) -> int:
        return len(self.images(media))

    def read(self, media: str, indices: np.ndarray) -> np.ndarray:
        return self.images(media)[indices]


@dataclass
class Setting:
    """A model of a task, and what may be asked of it."""

    task: Any
    folder: Path
    examples: list[Any]
    params: Params
    data: Path
    cache: FrameCache

    def evaluation(self, cache: Any) -> dict[tuple[str, ...], dict[str, float]]:
        """What evaluation gives: {(media, text): {answer: score}}."""
        pipe = pipeline(self.task.name, self.folder)
        evaluate = self.params.evaluate
        items = predict(self.task, pipe.model, pipe.processor, cache, self.examples, evaluate.clips, 5)
        found: dict[tuple[str, ...], dict[str, float]] = {}
        for row in items.to_dict("records"):
            if self.task.name == "retrieval":
                for media, score in zip(row["top_media"], row["top_scores"], strict=True):
                    found[media, row["text"]] = {"match": score}
            elif self.task.name == "captioning":
                found[(row["media"],)] = {row["predicted"]: row["log_probability"]}
            else:
                found[row["media"], row["question"]] = {row["predicted"]: row["confidence"]}
        return found

    def piped(self, video_of: Callable[[str], Any]) -> dict[tuple[str, ...], dict[str, float]]:
        """The same of `clipbert.pipeline`, which is given `video_of(media)`."""
        pipe = pipeline(self.task.name, self.folder)
        found: dict[tuple[str, ...], dict[str, float]] = {}
        media = [example.media for example in self.examples]
        for example in self.examples:
            video = video_of(example.media)
            if self.task.name == "captioning":
                found[(example.media,)] = {row["caption"]: row["score"] for row in pipe(video)}
            elif self.task.name == "retrieval":
                for text in example.texts:
                    rows = pipe(text, [video_of(name) for name in media])
                    found |= {(media[row["index"]], text): {"match": row["score"]} for row in rows}
            else:
                options = example.options or itertools.repeat(None)
                for question, some in zip(example.texts, options, strict=bool(example.options)):
                    best = (pipe(video, question) if some is None else pipe(video, question, some))[0]
                    found[example.media, question] = {best["answer"]: best["score"]}
        return found

    def asked(self) -> pd.DataFrame:
        """The rows for the MLflow model: each question, or each text with each video."""
        rows: list[dict[str, Any]] = []
        media_column = "image" if self.task.name == "image_qa" else "video"
        for example in self.examples:
            path = str(self.data / example.media)
            if self.task.name == "captioning":
                rows.append({"video": path})
            elif self.task.name == "retrieval":
                for other, text in itertools.product(self.examples, example.texts):
                    rows.append({"video": str(self.data / other.media), "text": text})
            else:
                for i, question in enumerate(example.texts):
                    rows.append({media_column: path, "question": question})
                    if example.options:
                        rows[-1]["options"] = list(example.options[i])
        return pd.DataFrame(rows)

    def read_answers(self, asked: pd.DataFrame, answers: pd.DataFrame) -> dict[tuple[str, ...], dict[str, float]]:
        """The MLflow model's answers in the form of the others."""
        assert answers["error"].isna().all(), answers["error"].tolist()
        found: dict[tuple[str, ...], dict[str, float]] = {}
        for row, answer in zip(asked.to_dict("records"), answers.to_dict("records"), strict=True):
            media = str(Path(row.get("video") or row["image"]).relative_to(self.data))
            if self.task.name == "captioning":
                found[(media,)] = {answer["caption"]: answer["score"]}
            elif self.task.name == "retrieval":
                found[media, row["text"]] = {"match": answer["score"]}
            else:
                found[media, row["question"]] = {answer["answer"]: answer["confidence"]}
        return found


@pytest.fixture(scope="session", params=TASKS)
def setting(request: pytest.FixtureRequest, tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A model with random weights that are large enough for scores to differ, saved as a training saves it."""
    changed = {"evaluate": {"clips": 3}, "tasks": {"captioning": {"beams": 2, "max_length": 12, "no_repeat_ngram": 3}}}
    params = Params.model_validate(changed)
    task = make_task(request.param, params)
    texts = read_texts(tiny_project / "artifacts" / "manifest")
    torch.manual_seed(0)
    model, processor = build_model(task, task.examples(texts, "train"), params)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    folder = tmp_path_factory.mktemp("one_score") / request.param
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    examples = [
        replace(e, ids=e.ids[:2], texts=e.texts[:2], options=e.options[:2], scores=e.scores[:2])
        for e in task.examples(texts, "test")[:MEDIA]
    ]
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    return Setting(task, folder, examples, params, tiny_project / "data", cache)


def served(setting: Setting, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The registered form of the model, loaded by MLflow, which may not unpickle."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("CLIPBERT_MEDIA_ROOTS", str(setting.data))
    _save(folder, setting.task.name, setting.folder, Model(), setting.params)
    return mlflow.pyfunc.load_model(str(folder))


def largest_difference(one: dict[Any, dict[str, float]], other: dict[Any, dict[str, float]]) -> float:
    """Between scores of the same thing; asserts that both are about the same, and answer alike."""
    common = one.keys() & other.keys()
    assert len(common) == min(len(one), len(other)) > 0
    assert {key: list(one[key]) for key in common} == {key: list(other[key]) for key in common}
    return max(abs(one[key][answer] - other[key][answer]) for key in common for answer in one[key])


def test_evaluation_pipeline_and_served_model_agree_on_the_same_frames(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = setting.evaluation(DecodedCache(setting.data, setting.params))
    piped = setting.piped(lambda media: setting.data / media)
    asked = setting.asked()
    answers = setting.read_answers(asked, served(setting, tmp_path / "served", monkeypatch).predict(asked))
    spread = [score for found in evaluated.values() for score in found.values()]
    assert max(spread) - min(spread) > 100 * SAME_FRAMES, "the scores are all the same: the test would show nothing"
    for found in (piped, answers):
        assert largest_difference(evaluated, found) < SAME_FRAMES
    assert largest_difference(piped, answers) < SAME_FRAMES


def test_evaluation_and_pipeline_agree_on_cached_frames(setting: Setting) -> None:
    evaluated = setting.evaluation(setting.cache)
    piped = setting.piped(lambda media: setting.cache[media].images)
    assert largest_difference(evaluated, piped) < SAME_FRAMES


def test_the_frame_cache_and_the_file_have_the_same_times_and_nearly_the_same_scores(setting: Setting) -> None:
    for example in setting.examples:
        assert len(setting.cache[example.media]) == len(read_given(setting.data / example.media, setting.params.frames))
    cached = setting.evaluation(setting.cache)
    decoded = setting.evaluation(DecodedCache(setting.data, setting.params))
    scores = [(cached[key], decoded[key]) for key in cached.keys() & decoded.keys()]
    same = [(a, b) for a, b in scores if list(a) == list(b)]
    assert len(same) >= 0.5 * len(scores)
    assert max(abs(a[name] - b[name]) for a, b in same for name in a) < CACHED_FRAMES
