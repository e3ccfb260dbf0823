"""Rerun of a restored version: its stages run again from the data, and the results are compared."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipbert.errors import ClipBertError
from clipbert.evaluation.compare import paired_bootstrap
from clipbert.evaluation.item_checks import read_predictions
from clipbert.redact import redact
from clipbert.release.gate import stored_predictions
from clipbert.release.lineage_record import StoredLineage
from clipbert.release.lock_file import md5_of, output_hashes
from clipbert.release.registry import model_digest
from clipbert.release.store import Store
from clipbert.release.stored_source import environment

Outcome = Literal["identical", "within noise", "different"]
# Outputs whose bytes follow from code, data and parameters. The others name the time, the run or the machine.
COMPARED = ("artifacts/manifest", "artifacts/frames")


@dataclass(frozen=True)
class Verification:
    """Result of a rerun.

    Attributes:
        outcome: "identical": the files of the model have the same digest; "within noise": the 95 %
            interval of the mean score difference on the same test items contains 0; "different": neither.
        digest: of the model that the rerun made; `expected`: of the version.
        same: output to whether it has the MD5 of dvc.lock.
        difference: mean score of the rerun minus that of the version on the same test items (0 to 1), with the ends of
            its interval; None if there is nothing to compare.
        environment: what differs between the machines: name to (then, now).
        metrics: name to (version, rerun), those that differ.
    """

    outcome: Outcome
    digest: str
    expected: str
    same: dict[str, bool]
    difference: tuple[float, float, float] | None
    environment: dict[str, tuple[str, str]]
    metrics: dict[str, tuple[float, float]]


def rerun(store: Store, version: Any, stored: StoredLineage, folder: Path, log: Callable[[str], None]) -> Verification:
    """Run the stages of a restored version again, from its data to its evaluation, and compare the results.

    The stages run with the restored code, with the number of threads of the training, and with an MLflow store of their
    own in `folder`.

    Args:
        version: MLflow's model version.
        folder: what `restore` wrote. Its artifacts are replaced.
        log: receives each line of the output of DVC.

    Raises:
        ClipBertError: a stage failed.
    """
    task = stored.lineage.task
    targets = _targets(stored, task)
    shutil.rmtree(folder / "artifacts", ignore_errors=True)
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache", *targets]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(folder, stored.source.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            log(redact(line.rstrip()))
    if process.returncode:
        raise ClipBertError(
            f"The rerun of {version.name} version {version.version} failed (`dvc repro` ended with exit code "
            f"{process.returncode}; its output is above). The restored project is in {folder}: correct the cause there "
            "and run `PYTHONPATH=src dvc repro`."
        )
    return compare_rerun(store, version, stored, folder)


def compare_rerun(store: Store, version: Any, stored: StoredLineage, folder: Path) -> Verification:
    """Compare the results in a restored project with those of its version; see `rerun`."""
    task = stored.lineage.task
    recorded = output_hashes(stored.stages)
    same = {name: md5_of(folder / name) == recorded[name] for name in COMPARED if recorded.get(name)}
    digest = model_digest(folder / "artifacts" / "models" / task)
    expected = version.tags["digest"]
    difference = _difference(store, version, task, folder)
    outcome: Outcome = "different"
    if digest == expected:
        outcome = "identical"
    elif difference is not None and difference[1] <= 0 <= difference[2]:
        outcome = "within noise"
    now = environment()
    then = stored.source.environment
    unlike = {name: (then[name], now.get(name, "none")) for name in then if then[name] != now.get(name, "none")}
    # The rerun has the threads of the training, whatever this process has.
    unlike.pop("threads", None)
    return Verification(outcome, digest, expected, same, difference, unlike, _metrics(version, task, folder))


def _targets(stored: StoredLineage, task: str) -> list[str]:
    """Return the stages that wrote the metrics and the predictions."""
    wanted = {f"artifacts/metrics/{task}.json", f"artifacts/predictions/{task}.parquet"}
    return [name for name, entry in stored.stages.items() if wanted & output_hashes({name: entry}).keys()]


def _environment(folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    values = os.environ | {"DVC_NO_ANALYTICS": "1", "PATH": programs, "PYTHONUNBUFFERED": "1"}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DVC_EXP_NAME"):
        values.pop(name, None)
    if (folder / "src" / "clipbert").is_dir():
        values["PYTHONPATH"] = str(folder / "src")
    if recorded.get("threads", "").isdecimal():
        values["OMP_NUM_THREADS"] = recorded["threads"]
    return values


def _difference(store: Store, version: Any, task: str, folder: Path) -> tuple[float, float, float] | None:
    """Return the mean score difference on the same test items with its interval; None if they are not the same."""
    before = stored_predictions(store, task, version)
    if isinstance(before, str):
        return None
    after = read_predictions(folder / "artifacts" / "predictions" / f"{task}.parquet", task)
    if set(before.index) != set(after.index):
        return None
    compared = paired_bootstrap(
        after.loc[before.index, "score"].to_numpy(dtype=float),
        before["score"].to_numpy(dtype=float),
    )
    return compared.mean_difference, compared.low, compared.high


def _metrics(version: Any, task: str, folder: Path) -> dict[str, tuple[float, float]]:
    after = json.loads((folder / "artifacts" / "metrics" / f"{task}.json").read_text(encoding="utf-8"))
    before = {key[7:]: float(value) for key, value in version.tags.items() if key.startswith("metric.")}
    shared = {name: (before[name], float(after[name])) for name in before if name in after}
    return {name: (old, new) for name, (old, new) in shared.items() if f"{old:.6g}" != f"{new:.6g}"}
