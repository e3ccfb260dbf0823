"""What data/ holds: its texts by id, its splits, and its manifest."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from clipbert.config.data import IngestParams
from clipbert.data import manifest
from clipbert.data.annotations import FILES, SPLITS, ErrorList, Text, stream_texts
from clipbert.data.inbox.batch import Key
from clipbert.data.ingest.stage import PROBE_CACHE_FILE, SPLIT_PRIORITY, ingest

CONTENT = ("media", "text", "answer", "options", "answer_index", "answer_type", "answers", "answer_scores")


@dataclass
class Present:
    """The data before the merge.

    Attributes:
        videos, texts: the tables of its manifest; None: data/ is empty.
        contents: a digest of each text without its split.
        splits: the split of each media that a text names.
        quarantined: why media files of data/ cannot be used.
    """

    data: Path
    videos: pd.DataFrame | None = None
    texts: pd.DataFrame | None = None
    contents: dict[Key, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> set[str]:
        """Media files that texts may name."""
        return set() if self.videos is None else set(self.videos["media"])


def read_present(data: Path, artifacts: Path, params: IngestParams) -> Present:
    """Ingest data/ as it is; files that were probed before are not probed again.

    Raises:
        ClipBertError: data/ itself is wrong, for example a line of its annotation files.
    """
    present = Present(data)
    if not any((data / file.name).is_file() for file in FILES):
        return present
    out = artifacts / "inbox" / "manifest"
    lenient = params.model_copy(update={"max_quarantined_fraction": 1.0})
    summary = ingest(data, out, lenient, memory=artifacts / PROBE_CACHE_FILE)
    present.videos, present.texts = manifest.read_videos(out), manifest.read_texts(out)
    present.quarantined = {name: f"{why.reason} ({why.detail})" for name, why in summary.quarantined.items()}
    errors = ErrorList()
    for text in stream_texts(data, errors.add):
        present.contents[text.kind, text.id] = content_digest(text)
        known = present.splits.get(text.media, text.split)
        present.splits[text.media] = min(text.split, known, key=SPLIT_PRIORITY.index)
    errors.raise_any()
    return present


def content_digest(text: Text) -> str:
    """Return a digest of what a text says, without its split, file and line."""
    values: list[Any] = [getattr(text, name) for name in (*CONTENT, "start_s", "end_s")]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def priority(splits: set[str]) -> str:
    """Return the split that a media file in several of them belongs to, as for `clipbert ingest`."""
    return min(splits & set(SPLITS), key=SPLIT_PRIORITY.index)
