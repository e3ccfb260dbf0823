"""Drift: changes since the last manifest that passed (new, removed and changed media, two distributions)."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipbert.config.data import DriftParams
from clipbert.data.manifest import TEXTS_FILE, VIDEOS_FILE
from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file
from clipbert.files.checksums import CHECKSUMS, check_files

LAST, BEFORE = "last.parquet", "before.parquet"
_METADATA = b"clipbert.baseline"


@dataclass(frozen=True)
class Snapshot:
    """Excerpt of a manifest, enough to compare another one with it."""

    digest: str
    media: pd.DataFrame  # media, sha256, duration_s
    text_chars: NDArray[np.int64]  # (lengths, 2): a length in characters, the number of texts with it

    def write(self, path: Path) -> None:
        """Write the snapshot as a parquet file; the same snapshot, the same bytes."""
        table = pa.Table.from_pandas(self.media, preserve_index=False)
        kept = json.dumps({"digest": self.digest, "text_chars": self.text_chars.tolist()})
        pq.write_table(table.replace_schema_metadata({_METADATA: kept.encode()}), path, compression="zstd")


def take(manifest_dir: Path, videos: pd.DataFrame, texts: pd.DataFrame) -> Snapshot:
    """Return the snapshot of a manifest from its tables."""
    names = (VIDEOS_FILE, TEXTS_FILE)
    digest = hashlib.sha256("".join(sha256_file(manifest_dir / name) for name in names).encode()).hexdigest()
    return excerpt(digest, videos, texts)


def excerpt(digest: str, videos: pd.DataFrame, texts: pd.DataFrame) -> Snapshot:
    """Return the snapshot of two tables with the columns of a manifest.

    Args:
        digest: identifies the manifest.
    """
    lengths = np.stack(np.unique(texts["text"].str.len().to_numpy(np.int64), return_counts=True), axis=1).astype(
        np.int64
    )
    return Snapshot(digest, videos[["media", "sha256", "duration_s"]].reset_index(drop=True), lengths)


def read(path: Path) -> Snapshot | None:
    """Return the snapshot in a file; None if there is no file.

    Raises:
        ClipBertError: the file is damaged or not a snapshot.
    """
    if not path.is_file():
        return None
    try:
        if (path.parent / CHECKSUMS).is_file():
            check_files(path.parent)
        table = pq.read_table(path)
        kept = json.loads(table.schema.metadata[_METADATA])
        lengths = np.asarray(kept["text_chars"], np.int64).reshape(-1, 2)
        return Snapshot(kept["digest"], table.to_pandas()[["media", "sha256", "duration_s"]], lengths)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise ClipBertError(
            f"{path}: not a baseline of an earlier validation ({error}). Delete it and validate again; "
            "drift is then measured from that run on."
        ) from error


def choose(folder: Path, today: Snapshot) -> tuple[Snapshot | None, list[Snapshot]]:
    """Return the baseline to compare `today` with, and the snapshots to keep if today's passes: the last and the one
    before.

    A manifest is never compared with itself: validated again it is compared with the one before, so that the same
    manifest gives the same result however often it is validated.
    """
    last, before = read(folder / LAST), read(folder / BEFORE)
    baseline = before if last is not None and last.digest == today.digest else last
    return baseline, [today] if baseline is None else [today, baseline]


def measure(baseline: Snapshot, today: Snapshot, limits: DriftParams) -> pd.DataFrame:
    """Return one row per measure: measure, value, limit (both fractions from 0 to 1), meaning.

    The distributions are compared by the two-sample Kolmogorov-Smirnov statistic, the largest gap between the two
    cumulative shares: it needs no bins and no units and, unlike its p-value, does not grow with the number of rows.
    """
    both = baseline.media.merge(today.media, on="media", suffixes=("_was", "_is"))
    old, new, common = len(baseline.media), len(today.media), len(both)
    changed = int((both["sha256_was"] != both["sha256_is"]).sum())
    durations = [_counted(snapshot.media["duration_s"].to_numpy(float)) for snapshot in (baseline, today)]
    rows = [
        ("new", (new - common) / max(new, 1), limits.max_new, f"{new - common} of {new} media are new"),
        ("removed", (old - common) / max(old, 1), limits.max_removed, f"{old - common} of {old} media are gone"),
        ("changed", changed / max(common, 1), limits.max_changed, f"{changed} of {common} kept media have other bytes"),
        ("durations", ks(*durations), limits.max_ks, "Kolmogorov-Smirnov statistic of the durations"),
        (
            "text lengths",
            ks(baseline.text_chars, today.text_chars),
            limits.max_ks,
            "Kolmogorov-Smirnov statistic of the text lengths",
        ),
    ]
    frame = pd.DataFrame(rows, columns=["measure", "value", "limit", "meaning"])
    return frame.assign(value=frame["value"].astype(float).round(6), limit=frame["limit"].astype(float))


def ks(first: NDArray[np.number], second: NDArray[np.number]) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic of two samples in (values, counts) columns; 0 to 1."""
    if not len(first) or not len(second):
        return 0.0
    values = np.union1d(first[:, 0], second[:, 0])
    shares = []
    for sample in (first, second):
        below = np.concatenate([[0], np.cumsum(sample[:, 1])])
        shares.append(below[np.searchsorted(sample[:, 0], values, side="right")] / below[-1])
    return float(np.abs(shares[0] - shares[1]).max())


def _counted(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(np.unique(values, return_counts=True), axis=1).astype(float)
