"""One self-contained HTML page a task: what the model reached, beside what costs nothing, and what it saw."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from clipbert.evaluate.plots import recall_figure, training_figure, types_figure
from clipbert.evaluate.run import Evaluation
from clipbert.files import atomic_write
from clipbert.frames import FrameCache
from clipbert.frames.sampling import uniform_clips

TITLES = {"retrieval": "Text-to-video retrieval", "open_qa": "Open-ended video question answering"}
SHOWN = 4
STRIP_HEIGHT = 96


@dataclass(frozen=True)
class Headline:
    """A number and what it stands beside."""

    name: str
    value: str
    beside: list[tuple[str, str]]


def headlines(task: str, metrics: dict[str, float]) -> list[Headline]:
    """The figures a reader looks for first, each with chance and the trivial baseline."""
    if task == "retrieval":
        return [
            *(
                Headline(
                    f"R@{k}",
                    f"{metrics[f'retrieval/r{k}']:.1f} %",
                    [
                        ("chance", f"{metrics[f'retrieval/chance_r{k}']:.1f} %"),
                        ("blank frames", f"{metrics[f'retrieval/blank_frames_r{k}']:.1f} %"),
                    ],
                )
                for k in (1, 5, 10)
            ),
            Headline(
                "median rank",
                f"{metrics['retrieval/median_rank']:g}",
                [
                    ("chance", f"{metrics['retrieval/chance_median_rank']:g}"),
                    ("of", f"{metrics['retrieval/gallery']:.0f} videos"),
                ],
            ),
        ]
    return [
        Headline(
            "accuracy",
            f"{metrics['open_qa/accuracy']:.1f} %",
            [
                ("majority answer", f"{metrics['open_qa/majority_accuracy']:.1f} %"),
                ("blank frames", f"{metrics['open_qa/blank_frames_accuracy']:.1f} %"),
                ("chance", f"{metrics['open_qa/chance_accuracy']:.1f} %"),
            ],
        ),
        Headline("questions", f"{metrics['open_qa/questions']:.0f}", []),
        Headline("answers in vocabulary", f"{metrics['open_qa/answer_coverage']:.1f} %", []),
    ]


def write_report(
    evaluation: Evaluation,
    cache: FrameCache,
    history: pd.DataFrame,
    validation: pd.DataFrame,
    main_metric: str,
    lineage: dict[str, str],
    params: dict[str, Any],
    out: Path,
) -> None:
    """Write the page to `out`; it needs no network and no other file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipbert.evaluate", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    figure = recall_figure if evaluation.task == "retrieval" else types_figure
    page = environment.get_template("report.html.j2").render(
        task=evaluation.task,
        title=TITLES[evaluation.task],
        headlines=headlines(evaluation.task, evaluation.metrics),
        figures=[
            (
                "Recall at k on the test videos" if evaluation.task == "retrieval" else "Accuracy by kind of question",
                figure(evaluation),
            ),
            ("Training", training_figure(history, validation, main_metric)),
        ],
        groups=[(name, [_shown(row, cache) for row in rows]) for name, rows in sample_rows(evaluation.items).items()],
        metrics=sorted(evaluation.metrics.items()),
        lineage=lineage,
        params=sorted(params.items()),
    )
    with atomic_write(out, "w") as file:
        file.write(page)


def sample_rows(items: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """A few right and a few wrong items, evenly spread over the test set, so that nobody picked them."""
    groups = {}
    for name, score in (("Right", 1.0), ("Wrong", 0.0)):
        rows = items[items["score"] == score]
        chosen = np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int)
        groups[name] = [{str(k): v for k, v in row.items()} for row in rows.iloc[chosen].to_dict("records")]
    return groups


def write_pictures(items: pd.DataFrame, cache: FrameCache, out: Path) -> list[Path]:
    """The samples of `sample_rows` as JPEG pictures (frames above, words below) for the experiment tracker."""
    paths = []
    for name, rows in sample_rows(items).items():
        for number, row in enumerate(rows, start=1):
            frames = strip(cache, row["media"])
            lines = [line for line in caption(row) if line]
            canvas = Image.new("RGB", (max(frames.width, 640), frames.height + 8 + 16 * len(lines)), "white")
            canvas.paste(frames, (0, 0))
            draw = ImageDraw.Draw(canvas)
            for line_number, line in enumerate(lines):
                draw.text((4, frames.height + 4 + 16 * line_number), line, fill="black")
            path = out / f"{name.lower()}_{number}.jpg"
            with atomic_write(path) as file:
                canvas.save(file, "JPEG", quality=88)
            paths.append(path)
    return paths


def caption(row: dict[str, Any]) -> list[str]:
    """What a sample says in words: the text, the truth, the prediction."""
    if "question" in row:
        return [
            row["question"],
            f"answer: {row['answer']}",
            f"predicted: {row['predicted']} ({100 * row['confidence']:.0f} %)",
        ]
    return [row["text"], f"its video ranks {row['rank']} of {row['gallery']}"]


def strip(cache: FrameCache, media: str, frames: int = 4) -> Image.Image:
    """`frames` evenly spread frames of a video side by side, `STRIP_HEIGHT` pixels high."""
    chosen = uniform_clips(cache.num_frames(media), frames, 1).flatten()
    images = [Image.fromarray(image) for image in cache.read(media, chosen)]
    width = max(1, round(images[0].width * STRIP_HEIGHT / images[0].height))
    canvas = Image.new("RGB", (frames * (width + 2) - 2, STRIP_HEIGHT), "white")
    for index, image in enumerate(images):
        canvas.paste(image.resize((width, STRIP_HEIGHT)), (index * (width + 2), 0))
    return canvas


def _shown(row: dict[str, Any], cache: FrameCache) -> dict[str, Any]:
    first = [
        {"media": media, "picture": _embedded(strip(cache, media, 2)), "truth": media == row["media"], "score": score}
        for media, score in zip(row.get("top_media", [])[:3], row.get("top_scores", [])[:3], strict=True)
    ]
    return {
        "words": caption(row),
        "media": row["media"],
        "picture": _embedded(strip(cache, row["media"])),
        "right": row["score"] == 1.0,
        "first": first,
    }


def _embedded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
