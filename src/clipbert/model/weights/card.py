"""The model card beside a model's weights: README.md, with the front matter that Hugging Face's tools read.

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
TRIVIAL = ("blank_frames_", "chance_", "constant_", "majority_")  # what a figure stands beside, not the model's own


@dataclass(frozen=True)
class Kind:
    """What a card says of a task's model."""

    title: str
    about: str
    pipeline_tag: str  # of the hub's list
    tags: tuple[str, ...]
    metrics: tuple[str, ...]  # by the hub's names
    use: str  # Python, with {folder} in it


KINDS = {
    "retrieval": Kind(
        "text-to-video retrieval",
        "It says how well a text fits a video, and so finds the videos a text describes.",
        "feature-extraction",
        ("video-retrieval",),
        ("recall",),
        'search = pipeline("retrieval", "{folder}")\nsearch("a red circle", ["a.mp4", "b.mp4"])',
    ),
    "open_qa": Kind(
        "video question answering",
        "It answers a question about a video with one of the answers in its config.json.",
        "video-text-to-text",
        ("video-question-answering",),
        ("accuracy",),
        'ask = pipeline("open_qa", "{folder}")\nask("a.mp4", "what color is the circle?")',
    ),
    "image_qa": Kind(
        "question answering about images",
        "It gives each answer in its config.json a score for a question about an image.",
        "visual-question-answering",
        (),
        ("accuracy",),
        'ask = pipeline("image_qa", "{folder}")\nask("a.png", "what color is the circle?")',
    ),
    "multiple_choice": Kind(
        "multiple-choice video question answering",
        "It chooses among the options of a question about a video.",
        "video-text-to-text",
        ("multiple-choice", "video-question-answering"),
        ("accuracy",),
        'choose = pipeline("multiple_choice", "{folder}")\n'
        'choose("a.mp4", "which way does it move?", ["to the left", "to the right"])',
    ),
    "captioning": Kind(
        "video captioning",
        "It describes a video in a sentence.",
        "video-text-to-text",
        ("video-captioning",),
        ("cider", "bleu", "rouge"),
        'describe = pipeline("captioning", "{folder}")\ndescribe("a.mp4")',
    ),
    "pretrain": Kind(
        "image-text pretraining",
        "It tells masked words, and whether a text belongs to an image: a start for other tasks (`model.init_from`).",
        "feature-extraction",
        ("pretraining",),
        ("accuracy",),
        'model = load("{folder}")',
    ),
}
IMPORTS = {"pretrain": "from clipbert.model import load"}

Table = Mapping[str, Any]


def model_card(task: str, folder: str, architecture: str, sections: Mapping[str, str]) -> str:
    """The card of a task's model, to be written to `CARD`.

    Args:
        folder: where the model lies, as its user would write it.
        architecture: the class of the model.
        sections: title to Markdown: what is known of its data, its training, its results.
    """
    kind = KINDS[task]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=kind.pipeline_tag,
        tags=["clipbert", *kind.tags],
        metrics=list(kind.metrics),
    )
    imports = IMPORTS.get(task, "from clipbert import pipeline")
    parts = [
        f"# ClipBERT for {kind.title}",
        f"A `{architecture}` after [Lei et al., CVPR 2021](https://arxiv.org/abs/2102.06183): text and a few sparsely "
        f"sampled frames through one encoder. {kind.about}",
        f"## Use\n\n```python\n{imports}\n\n{kind.use.format(folder=folder)}\n```",
        *(f"## {title}\n\n{text}" for title, text in sections.items()),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def with_results(
    card: str, task: str, metrics: Mapping[str, float], data_digest: str, origin: str, name: str | None = None
) -> str:
    """A card with the metrics of the test split: a table of all of them, and the model's own in the front matter.

    `origin`: a sentence on what was measured; `name`: that of the registered model, clipbert-TASK by default. Results
    that the card has already are replaced.
    """
    whole = ModelCard(card)
    data = whole.data
    assert isinstance(data, ModelCardData)
    data.model_name = name or f"clipbert-{task}"
    data.eval_results = [
        EvalResult(
            task_type=KINDS[task].pipeline_tag,
            dataset_type="clipbert",
            dataset_name="data",
            dataset_split="test",
            dataset_revision=data_digest,
            metric_type=metric.rpartition("/")[2],
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in sorted(metrics.items())
        if not metric.rpartition("/")[2].startswith(TRIVIAL)
    ]
    body = whole.text.partition(f"\n{RESULTS}\n")[0].rstrip("\n")
    whole.text = f"{body}\n\n{RESULTS}\n\n{origin}\n\n{table(('metric', 'value'), sorted(metrics.items()))}\n"
    return str(whole)


def table(head: tuple[str, ...], rows: Any) -> str:
    """A Markdown table; numbers as they are written in JSON."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def write_card(folder: Path, card: str) -> None:
    """Write the card into a model folder, without passwords that a parameter may have held."""
    with atomic_write(folder / CARD, "w") as file:
        file.write(redact(card))


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
