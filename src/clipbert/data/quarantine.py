"""Files that cannot be used: why, in codes a program can count and words a person can act on."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError

# code: (what it means, what to do)
REASONS = {
    "unreadable": (
        "no decoder gets a picture out of it: damaged, empty, or no video or image at all",
        "get the file again, or remove it",
    ),
    "no_video_stream": ("it holds sound, subtitles or a cover, but no moving picture", "remove it from data/"),
    "truncated": ("it ends before its header says, or nothing can be decoded after a while", "get the whole file"),
    "timeout": (
        "probing or decoding it took too long, twice; its process was killed",
        "if the file is good, raise ingest.timeout_s (or frames.timeout_s) and retry",
    ),
    "memory": (
        "probing or decoding it took too much memory, twice; its process was killed",
        "if the file is good, raise ingest.max_worker_mb (or frames.max_worker_mb) and retry",
    ),
    "too_short": ("it holds no frame, or lasts less than ingest.min_duration_s", "remove it, or lower the limit"),
    "too_long": ("it lasts more than ingest.max_duration_s", "cut it, or raise the limit"),
    "too_large": ("its frames have more than ingest.max_megapixels; not decoded", "scale it down, or raise the limit"),
    "extreme_aspect": ("its sides differ by more than ingest.max_aspect to 1", "crop it, or raise the limit"),
    "duplicate": (
        "the same bytes as another file of the same split, which stands for both and has the texts of both",
        "nothing; or remove one of them, or set ingest.duplicates to keep",
    ),
    "unsupported_path": (
        "its name is not UTF-8 or holds a control character, or it is a link out of data/, to nothing, or no file",
        "rename it, or put a copy in its place",
    ),
}


CHECKSUM = "checksum"


@dataclass(frozen=True)
class Quarantined:
    """One file in quarantine: a line of quarantine.jsonl. `stage`: ingest or frames."""

    media: str
    reason: str
    detail: str
    first_bad_s: float | None = None
    stage: str = "ingest"


def write_quarantine(path: Path, rows: Iterable[Quarantined]) -> None:
    """Write quarantine.jsonl; the caller provides the atomic folder it lies in."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            values = asdict(row)
            del values["stage"]
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def row_checksum(values: Mapping[str, Any]) -> str:
    """Return a checksum of the values of a line."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def check_row(row: dict[str, Any]) -> None:
    """Take the checksum out of a line and compare it with the values; older lines have none.

    Raises:
        ValueError: the values are not those that were written.
    """
    stored = row.pop(CHECKSUM, None)
    if stored is not None and stored != row_checksum(row):
        raise ValueError("a line does not match its checksum")


def read_quarantine(path: Path, stage: str) -> list[Quarantined]:
    """Read a quarantine.jsonl; empty when there is none.

    Raises:
        ClipBertError: a line is not one of ours.
    """
    if not path.is_file():
        return []
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ClipBertError(f"{path}: not UTF-8 text ({error}). Make it again: clipbert {stage}") from error
    # not splitlines(): it also splits at characters that JSON leaves as they are
    for number, line in enumerate(filter(None, lines), start=1):
        try:
            row = json.loads(line)
            check_row(row)
            rows.append(Quarantined(row["media"], row["reason"], row["detail"], row["first_bad_s"], stage))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ClipBertError(
                f"{path}:{number}: not a line of a quarantine ({error}). Make it again: clipbert {stage}"
            ) from None
    return rows
