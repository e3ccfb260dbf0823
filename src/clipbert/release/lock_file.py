"""dvc.lock: the stages that made a task's model, and the hashes of their inputs and outputs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clipbert.errors import ClipBertError, first_line

LOCK = "dvc.lock"
DATA = "data"
Stages = dict[str, dict[str, Any]]  # the name of a stage to its entry in dvc.lock


def model_outputs(task: str) -> tuple[str, ...]:
    """Return the outputs of the pipeline that a registered version consists of."""
    return (
        f"artifacts/models/{task}",
        f"artifacts/runs/{task}.json",
        f"artifacts/metrics/{task}.json",
        f"artifacts/predictions/{task}.parquet",
    )


def read_lock(text: str, title: str = LOCK) -> Stages:
    """Return the stages of a lock file.

    Raises:
        ClipBertError: it is damaged.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        stages = yaml.load(text, Loader=loader)["stages"]
        return {str(name): dict(entry) for name, entry in stages.items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ClipBertError(
            f"{title} cannot be read ({first_line(error)}). Expected the file that `dvc repro` writes. Restore it with "
            f"`git checkout {LOCK}`, or delete it and run `dvc repro`."
        ) from error


def stages_of_task(stages: Stages, task: str) -> Stages:
    """Return the stages that the model of a task and its evaluation depend on, in the order of the file.

    Stages of other tasks, and those that only read the model (register, dashboard), are left out: their entries change
    after the registration, and do not change the model.
    """
    makers = {path: name for name, entry in stages.items() for path in output_hashes({name: entry})}
    wanted, found = list(model_outputs(task)), set[str]()
    while wanted:
        path = wanted.pop()
        for made, name in makers.items():
            if name not in found and _overlap(made, path):
                found.add(name)
                wanted += [str(dep["path"]) for dep in stages[name].get("deps") or []]
    return {name: entry for name, entry in stages.items() if name in found}


def write_lock(stages: Stages) -> str:
    """Return a lock file with these stages, as DVC reads it; the same for any order of `stages`."""
    return yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=True, allow_unicode=True, width=1000)


def output_hashes(stages: Stages) -> dict[str, str | None]:
    """Return the path of each output with its MD5, None where DVC recorded none."""
    outs = [out for entry in stages.values() for out in entry.get("outs") or []]
    return {str(out["path"]): out.get("md5") for out in outs}


def data_entry(stages: Stages) -> dict[str, Any] | None:
    """Return the entry of data/ among the dependencies: path, md5, size and nfiles."""
    for entry in stages.values():
        for dep in entry.get("deps") or []:
            if dep.get("path") == DATA:
                return dict(dep)
    return None


def difference(stages: Stages, outputs: Mapping[str, str]) -> str | None:
    """Return why a lock file does not describe outputs; None if it does.

    Args:
        stages: of the lock file.
        outputs: path to MD5.
    """
    recorded = output_hashes(stages)
    for path, md5 in outputs.items():
        if path not in recorded:
            return f"{LOCK} has no entry of {path}"
        if recorded[path] != md5:
            return f"{path} is not the one that {LOCK} records"
    return None


def md5_of(path: Path) -> str:
    """Return the MD5 by which DVC knows a file, or a folder (with the suffix .dir).

    The hash of a folder is that of a JSON list with the MD5 and path of each file (dvc_data.hashfile.tree.Tree).
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    names = sorted(inner.relative_to(path).as_posix() for inner in path.rglob("*") if inner.is_file())
    entries = [{"md5": md5_of(path / name), "relpath": name} for name in names]
    return f"{hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()}.dir"


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
