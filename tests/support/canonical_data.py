"""Canonical data of tiny videos, and what ingest made of it."""

import json
from pathlib import Path
from typing import Any

from clipbert.config.data import IngestParams

PARAMS = IngestParams(num_workers=1)
LENIENT = IngestParams(num_workers=1, max_quarantined_fraction=0.9)


def caption(data: Path, **values: Any) -> None:
    """Append a line to captions.jsonl."""
    row = {"id": "new", "media": "videos/0.mp4", "text": "a bar", "split": "train", **values}
    with (data / "captions.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def quarantine(out: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert all(set(row) == {"media", "reason", "detail", "first_bad_s"} for row in rows)
    return {row["media"]: row["reason"] for row in rows}
