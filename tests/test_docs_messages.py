"""Messages that the docs quote are the messages of the code."""

import re
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
# Pieces of messages between the values that a message inserts, by page.
QUOTED = {
    "how-to/captioning.md": ["cannot write", "It strips accents or lacks characters"],
    "how-to/cluster.md": [
        "no dask scheduler answers",
        "the scheduler has had no workers",
        "Every worker needs the files",
        "several dask workers died while decoding it",
        "the connection to the scheduler was lost",
    ],
    "how-to/experiments.md": ["unknown parameter; ", "didn't change, skipping"],
    "how-to/promotion.md": [
        "was rolled back on",
        "Train another model, or promote this one with",
        "the strongest trivial baseline (",
        "is the champion again",
        "was interrupted",
        "it is half done: ",
        "cannot move the aliases of",
    ],
    "how-to/shared-installation.md": [
        "has no permission for this.",
        "Use an account that has, or ask an administrator of the server for",
    ],
    "how-to/tracking.md": [
        "does not accept metrics",
        "The training continues; its records are kept in",
        "MLflow answers again: ",
        "Not delivered to MLflow yet: ",
        "Not delivered to MLflow: ",
        "Nothing to deliver to MLflow",
        "belongs to another project (",
        "set it to a name of this project's own",
        "its files are recorded under",
        "It was moved, renamed or copied, and MLflow keeps absolute paths: run",
        "to this folder. Backup: ",
    ],
    "how-to/training.md": ["Resuming ", "Starting over: "],
    "how-to/use.md": [
        "use the settings of",
        "Train again to store the settings of params.yaml",
        "unknown parameter; expected some of",
        "expected a number from",
        "the request has",
        "saved at step",
    ],
    "how-to/validation.md": [
        "of the val and test media are near-duplicates of another split",
        "lower validate.max_hash_distance or raise validate.max_near_duplicates",
        "All checks: ",
    ],
    "concepts/frame-cache.md": [
        "no space left on the device",
        "fails its checksum",
        "the shard is missing",
        "names files that are not there",
        "not the file that ingest saw",
        "not in the frame cache",
    ],
    "concepts/media.md": ["decodes differently from one decode to the next"],
}


def one_line(text: str) -> str:
    """Return a text with string literals joined and line breaks as spaces."""
    return re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", text))


@cache
def messages() -> str:
    paths = [path for folder in ("src", "flows") for path in sorted((PROJECT / folder).rglob("*.py"))]
    return one_line("\n".join(path.read_text(encoding="utf-8") for path in paths))


@pytest.mark.parametrize("page", QUOTED)
def test_quoted_messages_are_those_of_the_code(page: str) -> None:
    text = one_line((PROJECT / "docs" / page).read_text(encoding="utf-8"))
    assert [piece for piece in QUOTED[page] if piece not in text] == [], "not on the page"
    assert [piece for piece in QUOTED[page] if piece not in messages()] == [], "not in the code"
