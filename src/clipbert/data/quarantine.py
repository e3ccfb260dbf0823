"""Quarantine: files that cannot be used, with a reason code, what was seen and what to do.

Ingest and the frame cache each write a quarantine.jsonl, one JSON object per line.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError

# code: (meaning, remedy)
REASONS = {
    "unreadable": (
        "no decoder returns a picture: the file is damaged, empty, or neither a video nor an image",
        "fetch the file again, or remove it",
    ),
    "no_video_stream": ("it holds audio, subtitles or a cover, but no video", "remove it from data/"),
    "truncated": (
        "it is shorter than its header declares, or nothing can be decoded from some time on",
        "fetch the whole file",
    ),
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
        "the same bytes as another file of the same split, which keeps the texts of both",
        "nothing is required; remove one of them, or set ingest.duplicates to keep",
    ),
    "unsupported_path": (
        "its name is not UTF-8 or has a control character, or it is a broken link, a link out of data/, or not a file",
        "rename it, or replace the link with a copy",
    ),
}

CHECKSUM = "checksum"


@dataclass(frozen=True)
class Quarantined:
    """File in quarantine: a line of the quarantine.jsonl of ingest.

    Attributes:
        media: path below data/.
        reason: a key of REASONS.
        detail: what was seen.
        first_bad_s: seconds from the start of the file to the first damage, where known.
    """

    media: str
    reason: str
    detail: str
    first_bad_s: float | None = None
    stage: ClassVar[str] = "ingest"


@dataclass(frozen=True, kw_only=True)
class NotDecoded(Quarantined):
    """File that ingest accepted and the frame cache could not decode, with the settings of the attempt."""

    sha256: str
    decoder: str
    timeout_s: float
    max_worker_mb: int
    stage: ClassVar[str] = "frames"

    def is_current(self, sha256: str, decoder: str, params: FramesParams) -> bool:
        """Return whether the file and the settings are the same, so that another attempt would fail too."""
        attempt = (self.sha256, self.decoder, self.timeout_s, self.max_worker_mb)
        return attempt == (sha256, decoder, params.timeout_s, params.max_worker_mb)


Record = TypeVar("Record", bound=Quarantined)


def write_quarantine(path: Path, records: Iterable[Quarantined], checksums: bool = False) -> None:
    """Write quarantine.jsonl; the caller provides the atomic folder that it is written to.

    Args:
        checksums: add a checksum to each line, for a file that no other checksum covers.
    """
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            values = asdict(record)
            if checksums:
                values[CHECKSUM] = _checksum(values)
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def read_quarantine(path: Path, kind: type[Record]) -> list[Record]:
    """Read a quarantine.jsonl; return an empty list if there is none. Lines without checksum are accepted.

    Args:
        kind: the record of a line, `Quarantined` or `NotDecoded`.

    Raises:
        ClipBertError: the file or a line of it is damaged.
    """
    remedy = f"Rerun: clipbert {kind.stage}"
    if not path.is_file():
        return []
    try:
        # not splitlines(), which also splits at characters that JSON does not escape
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipBertError(f"{path}: cannot be read as UTF-8 text ({error}). {remedy}") from error
    records = []
    for number, line in enumerate(filter(None, lines), start=1):
        try:
            values = json.loads(line)
            stored = values.pop(CHECKSUM, None)
            if stored is not None and stored != _checksum(values):
                raise ValueError("it does not match its checksum")
            records.append(kind(**values))
        except (ValueError, TypeError, AttributeError) as error:
            raise ClipBertError(f"{path}: line {number} is damaged ({error}). {remedy}") from None
    return records


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
