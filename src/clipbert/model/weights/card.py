"""Model card of a model folder: README.md with the front matter that Hugging Face's tools read.

Nothing in it depends on the time or the place it is written: the same training writes the same card.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from clipbert.files.atomic import atomic_write
from clipbert.redact import redact

CARD = "README.md"
RESULTS = "## Results on the test split"
USE_AND_LIMITS = (
    "For videos and texts like those of the training, whose numbers are below. Other input gets an answer too; "
    "`pipeline.remarks` and the commands of clipbert note it. The model sees a few frames of a video, so it misses "
    "short events between them, and it hears nothing. It was not tested for bias; do not use it to identify people or "
    "to decide about them."
)
# Beginnings of the figures that the model's are compared with, and ends of those that describe its intervals.
TRIVIAL = (
    *("blank_frames_", "chance_", "constant_", "frequent_option_", "majority_", "question_only_"),
    *("shuffled_frames_", "single_frame_"),
)
INTERVALS = ("_ci_low", "_ci_high")


@dataclass(frozen=True)
class CardText:
    """What a model card says about a task.

    Attributes:
        title: after "ClipBERT for".
        about: a sentence about what the model does.
        pipeline_tag, tags, metrics: by the hub's names.
        example: Python code that uses the model, with {folder} for its path.
    """

    title: str
    about: str
    pipeline_tag: str
    tags: tuple[str, ...]
    metrics: tuple[str, ...]
    example: str


Table = Mapping[str, Any]


def model_card(text: CardText, folder: str, architecture: str, sections: Mapping[str, str]) -> str:
    """The card of a task's model, to be written to `CARD`.

    Args:
        folder: where the model lies, as its user would write it.
        architecture: the class of the model.
        sections: title to Markdown: what is known of its data, its training, its results.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=text.pipeline_tag,
        tags=["clipbert", *text.tags],
        metrics=list(text.metrics),
    )
    parts = [
        f"# ClipBERT for {text.title}",
        f"A `{architecture}` after [Lei et al., CVPR 2021](https://arxiv.org/abs/2102.06183): text and a few sparsely "
        f"sampled frames through one encoder. {text.about}",
        f"## Use\n\n```python\nfrom clipbert import pipeline\n\n{text.example.format(folder=folder)}\n```",
        f"## Intended use and limits\n\n{USE_AND_LIMITS}",
        *(f"## {title}\n\n{body}" for title, body in sections.items()),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def with_results(
    card: str, task: str, metrics: Mapping[str, float], data_digest: str, origin: str, name: str | None = None
) -> str:
    """A card with the metrics of the test split: a table of all of them, and the model's own in the front matter.

    The table keeps the order of `metrics`. `origin`: a sentence on what was measured; `name`: that of the registered
    model, clipbert-TASK by default. Results that the card has already are replaced.
    """
    whole = ModelCard(card)
    data = whole.data
    assert isinstance(data, ModelCardData)
    assert data.pipeline_tag is not None
    data.model_name = name or f"clipbert-{task}"
    data.eval_results = [
        EvalResult(
            task_type=data.pipeline_tag,
            dataset_type="clipbert",
            dataset_name="data",
            dataset_split="test",
            dataset_revision=data_digest,
            metric_type=metric.rpartition("/")[2],
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in sorted(metrics.items())
        if not metric.rpartition("/")[2].startswith(TRIVIAL) and not metric.endswith(INTERVALS)
    ]
    body = whole.text.partition(f"\n{RESULTS}\n")[0].rstrip("\n")
    shown = table(("metric", "value", "95 % interval"), _rows(metrics))
    whole.text = f"{body}\n\n{RESULTS}\n\n{origin}\n\n{shown}\n"
    return str(whole)


def table(head: tuple[str, ...], rows: Any) -> str:
    """A Markdown table; numbers as they are written in JSON."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def folded(title: str, body: str) -> str:
    """Return a part of a card that is shown after a click on its title."""
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"


def write_card(folder: Path, card: str) -> None:
    """Write the card into a model folder, without passwords that a parameter may have held."""
    with atomic_write(folder / CARD, "w") as file:
        file.write(redact(card))


def _rows(metrics: Mapping[str, float]) -> list[tuple[str, float, str]]:
    """The metrics in their order, each with the ends of its interval."""
    low, high = INTERVALS
    return [
        (name, value, f"{metrics[name + low]} to {metrics[name + high]}" if name + low in metrics else "")
        for name, value in metrics.items()
        if not name.endswith(INTERVALS)
    ]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
