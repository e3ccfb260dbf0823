"""Size of data/ over the commits of a project, and the state of its validation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from clipbert.project import Project
from clipbert.release.provenance import git_output

MOST_COMMITS = 60


@dataclass(frozen=True)
class DataSize:
    """Size of data/ in a commit, as data.dvc records it."""

    commit: str
    at: str  # ISO 8601
    files: int
    megabytes: float


def data_sizes(root: Path) -> list[DataSize]:
    """Return the size of data/ in each commit that changed data.dvc, the oldest first; at most the last 60."""
    log = git_output(root, "log", f"--max-count={MOST_COMMITS}", "--format=%H %cI", "--", "data.dvc")
    found = []
    for line in reversed((log or "").splitlines()):
        commit, _, at = line.partition(" ")
        entry = _tracked(git_output(root, "show", f"{commit}:./data.dvc"))
        if entry is not None:
            found.append(DataSize(commit[:7], at, int(entry["nfiles"]), entry["size"] / 1e6))
    return found


@dataclass(frozen=True)
class Validation:
    """Outcome of the last validation of the manifest.

    Attributes:
        failed: checks that stop the pipeline and failed, by name.
        warned: checks that warn and failed.
        checks: the number of all checks.
        splits: split to its numbers of media and texts.
    """

    success: bool
    failed: tuple[str, ...]
    warned: tuple[str, ...]
    checks: int
    splits: dict[str, tuple[int, int]]


def last_validation(project: Project) -> Validation | None:
    """Return the outcome of the last validation; None if there was none or its files are damaged."""
    try:
        result = json.loads((project.validation / "result.json").read_text(encoding="utf-8"))
        checks = result["expectations"]
        failing = {name: sorted({c["check"] for c in checks if not c["success"] and c["severity"] == name})
                   for name in ("fail", "warn")}  # fmt: skip
        return Validation(
            bool(result["success"]), tuple(failing["fail"]), tuple(failing["warn"]), len(checks), _splits(project)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _splits(project: Project) -> dict[str, tuple[int, int]]:
    """Return the numbers of media and texts of each split."""
    counts = [
        pd.read_parquet(project.manifest / f"{name}.parquet", columns=["split"])["split"].value_counts()
        for name in ("videos", "texts")
    ]
    media, texts = counts
    return {split: (int(media.get(split, 0)), int(texts.get(split, 0))) for split in ("train", "val", "test")}


def _tracked(text: str | None) -> dict[str, Any] | None:
    """Return what a data.dvc says of data/; None for a file that says nothing."""
    try:
        outs = (yaml.safe_load(text or "") or {}).get("outs") or []
    except (yaml.YAMLError, AttributeError):
        return None
    for entry in outs:
        if isinstance(entry, dict) and isinstance(entry.get("nfiles"), int) and isinstance(entry.get("size"), int):
            return entry
    return None
