"""quarantine.jsonl of the frame cache: the files that ingest passed and that could not be decoded all the same."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipbert.config.schema import FramesParams
from clipbert.data.quarantine import CHECKSUM, check_row, row_checksum
from clipbert.frame_cache.pack import Failure, Job


@dataclass(frozen=True)
class Quarantined:
    """One of them: what was seen, and what would have to change for another try."""

    media: str
    reason: str
    detail: str
    first_bad_s: float | None
    sha256: str
    decoder: str
    timeout_s: float
    max_worker_mb: int

    def stands(self, sha256: str, decoder: str, params: FramesParams) -> bool:
        """Whether another try would be the same again."""
        tried = (self.sha256, self.decoder, self.timeout_s, self.max_worker_mb)
        return tried == (sha256, decoder, params.timeout_s, params.max_worker_mb)


def quarantined(job: Job, failure: Failure, params: FramesParams) -> Quarantined:
    """The record of a failure."""
    return Quarantined(
        media=failure.media,
        reason=failure.reason,
        detail=failure.detail,
        first_bad_s=failure.first_bad_s,
        sha256=job.sha256,
        decoder=job.decoder,
        timeout_s=params.timeout_s,
        max_worker_mb=params.max_worker_mb,
    )


def write_quarantine(path: Path, records: list[Quarantined]) -> None:
    """Write one JSON object a line with its checksum, in the order of the media."""
    lines = []
    for record in records:
        values = asdict(record)
        lines.append(json.dumps({**values, CHECKSUM: row_checksum(values)}, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def read_quarantine(path: Path) -> dict[str, Quarantined]:
    """By media; nothing where the file is missing or damaged: then those files are tried again."""
    try:
        return _read(path)
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def damage_of(path: Path) -> str | None:
    """Return what is wrong with the file at `path`; None if nothing is, or there is none."""
    try:
        _read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"{path}: damaged ({type(error).__name__}: {error})."
    return None


def _read(path: Path) -> dict[str, Quarantined]:
    # not splitlines(): it also splits at characters that JSON leaves as they are
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    for row in rows:
        check_row(row)
    return {row["media"]: Quarantined(**row) for row in rows}
