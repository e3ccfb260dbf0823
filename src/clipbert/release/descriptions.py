"""Descriptions of runs, registered models and versions in MLflow's pages, made from the model card."""

import re

from huggingface_hub import ModelCard

from clipbert.model.weights.card import RESULTS
from clipbert.redact import redact

NOTE = "mlflow.note.content"  # the tag with a run's description
LONGEST = 5000  # characters: the column of MLflow's database for the description of a model
MORE = "\n\n(Cut. The whole card is `README.md` among the files of the model.)"
# Sections in the order in which a reader of the page needs them; the others keep their order and follow.
FIRST = (RESULTS, "## Validation", "## Data", "## Lineage", "## Use")


def description(card: str) -> str:
    """Return a model card without its front matter, the results first, cut to what MLflow's database holds."""
    text = ModelCard(card, ignore_metadata_errors=True).text.strip()
    intro, *sections = re.split(r"\n(?=## )", text)
    sections.sort(key=_place)
    shown = redact("\n\n".join(part.strip() for part in (intro, *sections)))
    if len(shown) <= LONGEST:
        return shown
    return shown[: LONGEST - len(MORE)].rpartition("\n")[0] + MORE


def model_description(card: str, version: str) -> str:
    """Return the description of a registered model: which version is in use, and the card of its newest version."""
    head = f"The version with the alias `champion` is in use. The newest one is version {version}:\n\n"
    shown = description(card)
    if len(head) + len(shown) > LONGEST:
        shown = shown.removesuffix(MORE)[: LONGEST - len(head) - len(MORE)].rpartition("\n")[0] + MORE
    return head + shown


def _place(section: str) -> int:
    title = section.partition("\n")[0].strip()
    return FIRST.index(title) if title in FIRST else len(FIRST)
