"""Checks of a promotion policy about the origin of a model: its code, the validation of its data, leaks, seeds."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clipbert.config.promotion import POLICY, TaskPolicy
from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.release.provenance import NONE
from clipbert.release.revisions import SHORT, Revisions
from clipbert.release.verdict import Check

LEAKS = ("split_by_media", "split_by_file", "near_duplicates")  # checks of validation
COMMIT = "Commit the code, params.yaml and dvc.lock that made it (`git commit -a`), then promote again"


def code_check(
    project: Project, task: str, policy: TaskPolicy, run_tags: Mapping[str, str], predictions_md5: str
) -> Check | None:
    """Check that the code and the parameters of a model are in a commit or a DVC experiment; None if not required.

    A model is saved if the dvc.lock of a commit names its predictions: the lock also names the code, the parameters,
    the data and the model that they come from.

    Args:
        run_tags: of the MLflow run that trained the model.
        predictions_md5: of the predictions that were registered.
    """
    wanted = policy.lineage.code
    if wanted == "any":
        return None
    required = {
        "clean_or_saved": "trained from a commit without changes, or saved in a commit or a DVC experiment",
        "saved": "saved in a commit or a DVC experiment",
    }[wanted]
    commit, dirty = run_tags.get("clipbert.git_commit", NONE), run_tags.get("clipbert.git_dirty", NONE)
    tree = {"false": f"commit {commit[:SHORT]} without changes", "true": f"commit {commit[:SHORT]} with changes"}
    words = tree.get(dirty, "no commit is recorded")
    if wanted == "clean_or_saved" and dirty == "false":
        return _lineage("code", "code", True, words, required)
    saved = saved_in(project, task, predictions_md5)
    if saved is None:
        return _lineage("code", "code", False, f"{words}; not saved in a commit or a DVC experiment", required, COMMIT)
    return _lineage("code", "code", True, f"{words}; saved in {saved}", required)


def saved_in(project: Project, task: str, predictions_md5: str) -> str | None:
    """Return the commit, branch or DVC experiment whose dvc.lock has these predictions; None if there is none."""
    revisions = Revisions(project.root)
    path = project.predictions(task).relative_to(project.root).as_posix()
    for name, commit in revisions.recent():
        try:
            outputs = revisions.outputs(commit)
        except ClipBertError:
            continue
        if outputs.get(path) == predictions_md5:
            return name
    return None


def data_checks(project: Project, policy: TaskPolicy, version_tags: Mapping[str, str]) -> list[Check]:
    """Check that the data of a training passed validation, and that validation found no leak between the splits.

    Args:
        version_tags: of the registered version, with the digest of the data of its training.
    """
    wanted = policy.lineage
    if not (wanted.validated_data or wanted.no_leakage):
        return []
    result, problem = _validation(project, version_tags.get("data_digest", NONE))
    remedy = "Validate the data of this training: `dvc repro validate`, then promote again"
    found = []
    if wanted.validated_data:
        failed = sorted({str(one["check"]) for one in result if one["severity"] == "fail" and not one["success"]})
        words = problem or (f"failed: {', '.join(failed)}" if failed else f"passed {len(result)} checks")
        passed = not problem and not failed
        found.append(_lineage("validated_data", "validated data", passed, words, "validation passed", remedy))
    if wanted.no_leakage:
        leaks = sorted({str(one["check"]) for one in result if one["check"] in LEAKS and not one["success"]})
        absent = [name for name in LEAKS if name not in {one["check"] for one in result}]
        words = problem or (
            f"found by {', '.join(leaks)}" if leaks else f"{', '.join(absent)} did not run" if absent else "none found"
        )
        passed = not (problem or leaks or absent)
        found.append(_lineage("no_leakage", "leaks between splits", passed, words, "none", remedy))
    return found


def seeds_check(policy: TaskPolicy, seeds: list[str]) -> Check | None:
    """Check the number of trainings with different seeds; None where one is enough."""
    if policy.min_seeds == 1:
        return None
    passed = len(seeds) >= policy.min_seeds
    return Check(
        "seeds",
        "seeds of the candidate's configuration",
        "passed" if passed else "failed",
        f"{len(seeds)} ({', '.join(seeds) or 'none recorded'})",
        f"at least {policy.min_seeds}",
        {"count": len(seeds)},
        "Train and evaluate it with other seeds: `dvc exp run -S seed=1`, ..., or lower min_seeds in "
        f"{POLICY}, then promote again",
    )


def md5_of(path: Path) -> str:
    """Return the MD5 by which DVC names a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _lineage(name: str, title: str, passed: bool, found: str, required: str, remedy: str = "") -> Check:
    outcome = "passed" if passed else "failed"
    return Check(f"lineage.{name}", title, outcome, found, required, {}, "" if passed else remedy)  # type: ignore[arg-type]


def _validation(project: Project, data_digest: str) -> tuple[list[dict[str, Any]], str]:
    """Return the checks of the last validation, and why they say nothing about data with this digest."""
    path = project.validation / "result.json"
    name = path.relative_to(project.root)
    try:
        result = [
            {"check": one["check"], "severity": one["severity"], "success": bool(one["success"])}
            for one in json.loads(path.read_text(encoding="utf-8"))["expectations"]
        ]
    except FileNotFoundError:
        return [], f"{name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], f"{name} cannot be read ({error})"
    validated = _validated_data(project.root)
    if validated != data_digest:
        return [], f"{name} is of other data ({validated[:12]}) than the training ({data_digest[:12]})"
    return result, ""


def _validated_data(root: Path) -> str:
    """Return DVC's hash of the data whose manifest was validated last; "none" without dvc.lock."""
    try:
        stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        manifest = {
            stage: next(one["md5"] for one in stages[stage][kind] if one["path"] == "artifacts/manifest")
            for stage, kind in (("ingest", "outs"), ("validate", "deps"))
        }
        data = next(str(one["md5"]) for one in stages["ingest"]["deps"] if one["path"] == "data")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, StopIteration):
        return NONE
    return data if manifest["ingest"] == manifest["validate"] else "another manifest"
