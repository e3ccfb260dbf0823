"""A task of another package: defined here, registered, and run from examples to the registered model.

Nothing in clipbert knows it. It names the color that a video's captions mention, with the question-answering head.
"""

import re
import shutil
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import Field
from torch import Tensor

from clipbert import pipeline, stages
from clipbert.cli.summary import print_summary
from clipbert.config import tasks as config_tasks
from clipbert.config.load import load_params
from clipbert.config.schema import Params
from clipbert.config.tasks import TaskSection, check_task, load_installed_tasks, task_names
from clipbert.config.yaml_io import dump_yaml
from clipbert.distributed.collectives import scale_loss_for_ddp
from clipbert.errors import ClipBertError
from clipbert.evaluation.metrics.answers import accuracy_by_type
from clipbert.model import ClipBertForOpenQA
from clipbert.model.weights.card import CardText
from clipbert.project import Project
from clipbert.release.store import tracking_uri
from clipbert.tasks import make_task, register_task, task_class, unregister_task
from clipbert.tasks.base import Evaluator, Objective, Task
from clipbert.tasks.batch import Batch, Encoded, Example, Predictions, Tokenize
from clipbert.tasks.examples import Examples
from clipbert.tasks.presentation import BLANK, CLIPS, TOP, BarPlot, Headline, Report, Serving
from clipbert.tasks.scoring import answer_probabilities

COLORS = ("red", "green", "blue", "yellow", "white", "purple", "orange", "cyan", "other")
QUESTION = "what color does it have?"


class ColorParams(TaskSection):
    """The color of what moves."""

    epochs: int = Field(1, ge=1, description="passes over the training videos")
    smoothing: float = Field(0.5, ge=0, description="added to the count of each color in the baseline")


def color_of(captions: list[str]) -> str:
    words = {word for caption in captions for word in caption.split()}
    return next((color for color in COLORS if color in words), "other")


class ColorExamples(Examples):
    kind = "caption"

    def example(self, media: str, rows: pd.DataFrame, captions: list[str]) -> Example:
        return Example(media, [f"color of {media}"], [QUESTION], [color_of(rows["text"].tolist())], ["color"])

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        return [0]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        return [config.answers.index(example.answers[0])]


class ColorObjective(Objective):
    model_class = ClipBertForOpenQA

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        return {"answers": list(COLORS), "projection_size": None}

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        out = model(
            pixel_values=batch.pixel_values,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            texts_per_video=batch.texts_per_video,
            labels=batch.labels,
        )
        loss = scale_loss_for_ddp(out.loss, len(batch.labels))
        return loss, {"naming": loss.detach()}


class ColorEvaluator(Evaluator):
    main_metric = "color/accuracy"
    blank_frame_metrics = ("color/accuracy",)
    task_settings = ("smoothing",)

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        for example in examples:
            probabilities = answer_probabilities(model, videos.of([example.media]), *tokenize([QUESTION]))[0]
            predicted = model.config.answers[int(probabilities.argmax())]
            yield {
                "item_id": example.ids[0],
                "score": float(predicted == example.answers[0]),
                "chance": 1 / len(COLORS),
                "answer_type": "color",
                "answer": example.answers[0],
                "predicted": predicted,
                "media": example.media,
            }

    def metrics(self, items: Predictions) -> dict[str, float]:
        return {"color/accuracy": 100 * float(items["score"].mean()), "color/videos": float(len(items))}

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        return {"color/frequent_accuracy": 100 * float(self.baseline_scores(items, train)["frequent"].mean())}

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        counts = dict.fromkeys(COLORS, self.params.smoothing)
        for example in train:
            counts[example.answers[0]] += 1
        return {"frequent": (items["answer"] == max(counts, key=counts.__getitem__)).to_numpy(dtype=float)}


class ColorReport(Report):
    title = "Colors of <moving> things"
    headlines = (
        Headline(
            "color accuracy",
            "accuracy",
            (("most frequent color", "frequent_accuracy"), (BLANK, "blank_frames_accuracy")),
            row="color accuracy, %",
        ),
    )
    baselines = {"frequent_score": "most frequent color"}  # noqa: RUF012
    plot = BarPlot("Accuracy of colors", "by_color")

    def tables(self, items: pd.DataFrame, blank_items: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {"by_color": accuracy_by_type(items, blank_items)}

    def lines(self, row: dict[str, Any]) -> list[str]:
        return [f"named {row['predicted']}, is {row['answer']}"]


class Color(Task):
    name = "color"
    params_class = ColorParams
    examples_class = ColorExamples
    objective_class = ColorObjective
    evaluator_class = ColorEvaluator
    report = ColorReport()
    card = CardText(
        title="naming colors",
        about="It names a color.",
        pipeline_tag="video-text-to-text",
        tags=("colors",),
        metrics=("accuracy",),
        example='ask = pipeline("color", "{folder}")\nask("a.mp4", "what color does it have?")',
    )
    serving = Serving(
        inputs={"video": "string", "question": "string"},
        outputs={"answer": "string", "confidence": "double", "top_answers": "strings", "top_confidences": "doubles"},
        example={"video": "data/videos/example.mp4", "question": QUESTION},
        params=CLIPS | TOP,
    )


@pytest.fixture
def color() -> Iterator[type[Task]]:
    """The task, registered for one test."""
    yield register_task(Color)
    unregister_task("color")
    assert "color" not in task_names()
    assert "tasks.color.epochs" not in Params().flat()


@pytest.fixture
def project(tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the tiny project with an embedded MLflow store of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("data", "artifacts/manifest", "artifacts/frames"):
        shutil.copytree(tiny_project / name, tmp_path / name)
    (tmp_path / "mlflow").mkdir()
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def small(**sections: Any) -> Params:
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48}
    training = {"batch_size": 8, "min_steps": 0}
    return Params.model_validate({"model": size, "train": training, "evaluate": {"clips": 1}, **sections})


@pytest.mark.usefixtures("color")
def test_a_registered_task_runs_from_examples_to_the_registered_model(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("CLIPBERT_MEDIA_ROOTS", str(project.data))
    params = small(tasks_run=["color"], tasks={"color": {"epochs": 2}})
    for stage in (stages.train, stages.evaluate, stages.register):
        stage(project, "color", params)

    metrics = pd.read_json(project.metrics("color"), typ="series")
    items = pd.read_parquet(project.predictions("color"))
    assert metrics["color/accuracy"] == pytest.approx(100 * items["score"].mean(), abs=1e-3)
    assert {"color/frequent_accuracy", "color/blank_frames_accuracy"} <= set(metrics.index)
    assert {"chance", "blank_frames_score", "frequent_score"} <= set(items.columns)
    assert items.attrs["evaluation"]["smoothing"] == 0.5
    page = project.report("color").read_text()
    assert "Colors of &lt;moving&gt; things" in page
    assert all(text in page for text in ("color accuracy", "most frequent color", "named ", "tasks.color.epochs"))
    assert (project.plots("color") / "breakdown.csv").is_file()
    card = (project.model("color") / "README.md").read_text()
    assert "# ClipBERT for naming colors" in card
    capsys.readouterr()
    print_summary(project, params)
    assert re.search(r"color accuracy, %\s+\d+\.\d\s+\d+\.\d\s+\d+\.\d", capsys.readouterr().out)

    video = project.data / items["media"][0]
    ask = pipeline("color", project.model("color"))
    answers = ask(video, QUESTION)
    assert {answer["answer"] for answer in answers} <= set(COLORS)
    assert repr(ask).startswith("OpenQAPipeline(task='color'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(project.root))
    served = mlflow.pyfunc.load_model(f"models:/{params.release.name}-color@candidate")
    (row,) = served.predict(pd.DataFrame({"video": [str(video)], "question": [QUESTION]})).to_dict("records")
    assert row["answer"] == answers[0]["answer"]
    assert row["confidence"] == pytest.approx(answers[0]["score"], abs=1e-6)


@pytest.mark.usefixtures("color")
def test_its_parameters_are_read_and_checked_like_the_others(tmp_path: Path) -> None:
    assert task_names()[-1] == "color"
    path = tmp_path / "params.yaml"
    path.write_text(dump_yaml(Params().model_dump(by_alias=True, mode="json")))
    loaded = load_params(path, ["tasks.color.epochs=7", "tasks_run=[color]"])
    task = make_task("color", loaded.tasks)
    assert (task.params.epochs, task_class("color")) == (7, Color)
    with pytest.raises(ClipBertError, match=r"tasks\.color\.smoothing = -1\.0: expected greater than or equal to 0"):
        load_params(path, ["tasks.color.smoothing=-1.0"])
    with pytest.raises(ClipBertError, match=r"tasks_run\.0 = 'colors': expected .*'color'"):
        load_params(path, ["tasks_run=[colors]"])
    with pytest.raises(ClipBertError, match=r"colors: no such task; expected one of .*Did you mean color\?"):
        check_task("colors")


def test_a_name_is_given_once(color: type[Task]) -> None:
    class Other(Color):
        """Another task of the same name."""

    class Retrieval(Color):
        name = "retrieval"

    for task, name in ((Other, "color"), (Retrieval, "retrieval"), (color, "color")):
        with pytest.raises(ValueError, match=f"there is a task called '{name}' already. Choose another name"):
            register_task(task)


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    points = (EntryPoint(name, value, config_tasks.ENTRY_POINTS),)
    monkeypatch.setattr(config_tasks, "_installed", lambda: points)


def test_an_installed_package_announces_its_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "color_package.py").write_text(
        "from clipbert.tasks import register_task\nfrom test_add_a_task import Color\nregister_task(Color)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    install(monkeypatch, "color", "color_package:Color")
    assert "color" in task_names()  # for the help, without an import
    assert "tasks.color.epochs" not in Params().flat()
    try:
        assert check_task("color") == "color"
        assert Params().flat()["tasks.color.epochs"] == 1
    finally:
        unregister_task("color")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_package:Color", r"color = no_such_package:Color .* cannot be loaded: ModuleNotFoundError.*uninstall"),
        ("collections:OrderedDict", r"registers no task called color: expected a class with @clipbert\.tasks"),
    ],
)
def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    install(monkeypatch, "color", value)
    with pytest.raises(ClipBertError, match=message):
        load_installed_tasks()
    with pytest.raises(ClipBertError, match=message):
        task_class("color")
    assert task_class("retrieval").name == "retrieval"
