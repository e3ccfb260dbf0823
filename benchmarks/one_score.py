"""How far scores of evaluation, `clipbert.pipeline` and the MLflow model differ, on the models of a project.

    python -m benchmarks.one_score PROJECT [--media 30] [--tasks TASK ...]

For each trained task of PROJECT (manifest, frame cache and models below `artifacts/`), the first media of the test
split are scored by the evaluation from the frame cache, by the evaluation from frames decoded without the cache, by a
pipeline on the files, and by the MLflow model on the files. The first table has the same frames in all three, the
second has evaluation from the cache (JPEG) and a pipeline from the file.
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import Model

from clipbert import pipeline
from clipbert.config.load import load_params
from clipbert.config.schema import FramesParams, Params
from clipbert.config.tasks import task_names
from clipbert.data.manifest import read_texts
from clipbert.frame_cache import FrameCache
from clipbert.project import Project
from clipbert.release.registry import save_mlflow_model
from clipbert.release.served_settings import served_settings
from clipbert.sampling.video_input import decode_input
from clipbert.tasks import make_task
from clipbert.tasks.predict import predict

MAX_GALLERY = 10  # a pipeline reads and encodes the whole gallery for each text
Scores = dict[tuple[str, ...], dict[str, float]]  # {(media, text): {answer: score}}


@dataclass
class DecodedCache:
    """The frame cache's interface over frames decoded from the files themselves, without JPEG compression."""

    data: Path
    params: FramesParams
    decoded: dict[str, Any] = field(default_factory=dict)

    def images(self, media: str) -> Any:
        """Return the candidate frames of a file, decoded once."""
        if media not in self.decoded:
            self.decoded[media] = decode_input(self.data / media, self.params).images
        return self.decoded[media]

    def num_frames(self, media: str) -> int:
        """Return how many candidate frames the file has."""
        return len(self.images(media))

    def read(self, media: str, indices: Any) -> Any:
        """Return the frames `indices`."""
        return self.images(media)[indices]


@dataclass
class ScoreSources:
    """A model of a task, the examples to score, and each way to score them.

    Attributes:
        task: as `make_task` gives it.
        folder: the model folder.
        pipe: the pipeline on that folder.
    """

    task: Any
    folder: Path
    examples: list[Any]
    params: Params
    data: Path
    pipe: Any

    def evaluation(self, cache: Any) -> Scores:
        """Return the scores of evaluation, which reads the frames of `cache`."""
        clips = self.params.evaluate.clips
        items = predict(self.task.evaluator, self.pipe.model, self.pipe.processor, cache, self.examples, clips, 5)
        found: Scores = {}
        for row in items.to_dict("records"):
            if self.task.name == "retrieval":
                for media, score in zip(row["top_media"], row["top_scores"], strict=True):
                    found[media, row["text"]] = {"match": score}
            elif self.task.name == "captioning":
                found[(row["media"],)] = {row["predicted"]: row["log_probability"]}
            else:
                found[row["media"], row["question"]] = {row["predicted"]: row["confidence"]}
        return found

    def piped(self, video_of: Callable[[str], Any]) -> Scores:
        """Return the scores of `clipbert.pipeline`, which is given `video_of(media)`."""
        found: Scores = {}
        media = [example.media for example in self.examples]
        for example in self.examples:
            video = video_of(example.media)
            if self.task.name == "captioning":
                found[(example.media,)] = {row["caption"]: row["score"] for row in self.pipe(video)}
            elif self.task.name == "retrieval":
                videos = [video_of(name) for name in media]
                for text in example.texts:
                    rows = self.pipe(text, videos)
                    found |= {(media[row["index"]], text): {"match": row["score"]} for row in rows}
            else:
                options = example.options or itertools.repeat(None)
                for question, some in zip(example.texts, options, strict=bool(example.options)):
                    best = (self.pipe(video, question) if some is None else self.pipe(video, question, some))[0]
                    found[example.media, question] = {best["answer"]: best["score"]}
        return found

    def served(self, model: Any) -> Scores:
        """Return the scores of a loaded MLflow model, which is given the paths of the files."""
        asked = self.rows()
        answers = model.predict(asked)
        assert answers["error"].isna().all(), answers["error"].tolist()
        found: Scores = {}
        for row, answer in zip(asked.to_dict("records"), answers.to_dict("records"), strict=True):
            media = str(Path(row.get("video") or row["image"]).relative_to(self.data))
            if self.task.name == "captioning":
                found[(media,)] = {answer["caption"]: answer["score"]}
            elif self.task.name == "retrieval":
                found[media, row["text"]] = {"match": answer["score"]}
            else:
                found[media, row["question"]] = {answer["answer"]: answer["confidence"]}
        return found

    def rows(self) -> pd.DataFrame:
        """Return the rows for the MLflow model: each question, or each text with each video."""
        rows: list[dict[str, Any]] = []
        column = "image" if self.task.name == "image_qa" else "video"
        for example in self.examples:
            path = str(self.data / example.media)
            if self.task.name == "captioning":
                rows.append({"video": path})
            elif self.task.name == "retrieval":
                for other, text in itertools.product(self.examples, example.texts):
                    rows.append({"video": str(self.data / other.media), "text": text})
            else:
                for i, question in enumerate(example.texts):
                    rows.append({column: path, "question": question})
                    if example.options:
                        rows[-1]["options"] = list(example.options[i])
        return pd.DataFrame(rows)


def first_examples(task: Any, texts: Any, media: int, items: int = 2) -> list[Any]:
    """Return the first test examples of a task, each with its first texts."""
    return [
        replace(e, ids=e.ids[:items], texts=e.texts[:items], options=e.options[:items], scores=e.scores[:items])
        for e in task.examples.read(texts, "test")[:media]
    ]


def differences(one: Scores, other: Scores) -> tuple[list[float], int]:
    """Return the absolute differences of scores of the same answer, and how many answers are not the same."""
    common = sorted(one.keys() & other.keys())
    assert len(common) == min(len(one), len(other)) > 0
    same = [key for key in common if one[key].keys() == other[key].keys()]
    return [abs(one[key][name] - other[key][name]) for key in same for name in one[key]], len(common) - len(same)


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--media", type=int, default=30)
    parser.add_argument("--tasks", nargs="+", default=task_names("tasks_run"))
    asked = parser.parse_args()
    project = Project(asked.project.resolve())
    params = load_params(project.root / "params.yaml")
    data = project.root / "data"
    os.environ["CLIPBERT_MEDIA_ROOTS"] = str(data)
    cache, texts = FrameCache(project.frames), read_texts(project.manifest)
    same = ["| task | first item | evaluation | pipeline | served | scores | largest difference |", "|---" * 7 + "|"]
    jpeg = ["| task | scores | largest | 95th percentile | median | other answer |", "|---" * 6 + "|"]
    for name in asked.tasks:
        if not (project.model(name) / "config.json").is_file():
            continue
        task = make_task(name, params.tasks)
        pipe = pipeline(name, project.model(name), device="cpu")
        media = min(asked.media, MAX_GALLERY) if name == "retrieval" else asked.media
        found = first_examples(task, texts, media)
        source = ScoreSources(task, project.model(name), found, params, data, pipe)
        with tempfile.TemporaryDirectory() as scratch:
            sections = (params.evaluate, params.frames, params.tasks.section(name))
            settings = served_settings(name, source.folder, *sections)
            save_mlflow_model(Path(scratch, "model"), source.folder, settings, Model())
            served = source.served(mlflow.pyfunc.load_model(str(Path(scratch, "model"))))
        decoded, piped = source.evaluation(DecodedCache(data, params.frames)), source.piped(lambda media: data / media)
        pairs = [differences(decoded, piped), differences(decoded, served), differences(piped, served)]
        assert not any(other for _, other in pairs)
        first = next(iter(decoded))
        (answer,) = decoded[first]
        values = " | ".join(f"{scores[first][answer]:.7f}" for scores in (decoded, piped, served))
        worst = max(max(distances) for distances, _ in pairs)
        same.append(f"| {name} | {answer!r} | {values} | {len(decoded)} | {worst:.1e} |")
        distances, other = differences(source.evaluation(cache), piped)
        top, usual, half = max(distances), *np.quantile(distances, [0.95, 0.5])
        compared = len(distances) + other
        jpeg.append(f"| {name} | {compared} | {top:.4f} | {usual:.4f} | {half:.4f} | {other} of {compared} |")
        print("\n".join([*same, "", *jpeg]), "\n", flush=True)


if __name__ == "__main__":
    main()
