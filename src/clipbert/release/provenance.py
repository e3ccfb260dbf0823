"""Provenance of a model: code, data, command and machine, as tags."""

import getpass
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from clipbert import __version__
from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file
from clipbert.files.signed_json import read_signed_json
from clipbert.redact import redact_arguments

NONE = "none"
GIT_TIMEOUT_S = 20.0
FLOW_RUN = "CLIPBERT_FLOW_RUN"  # set by the flows: "NAME (ID)" of the flow run that runs this command


def provenance(root: Path) -> dict[str, str]:
    """Return the tags of a run or model version; "none" for what the project's folder does not have.

    `git_dirty` ignores dvc.lock, which DVC writes during the run (`dvc_lock` is its hash), and mlflow/project.json,
    which the first run creates.
    """
    return {
        "clipbert.version": __version__,
        "clipbert.git_commit": git_commit(root),
        "clipbert.git_dirty": git_dirty(root),
        "clipbert.dvc_lock": dvc_lock_digest(root),
        "clipbert.data_digest": data_digest(root),
        "clipbert.command": shlex.join([Path(sys.argv[0]).name, *redact_arguments(sys.argv[1:])]),
        **process_tags(),
        "clipbert.device": device_name(),
        "clipbert.user": user_name(),
        "clipbert.flow_run": os.environ.get(FLOW_RUN) or NONE,
    }


def changed_data(root: Path, run_json: Path) -> str | None:
    """Return a sentence if the data differ from those of the training that `run_json` describes; None if not.

    A run that cannot be read or recorded no data, as without DVC, gives None.
    """
    try:
        tags = read_signed_json(run_json, "").get("tags")
    except ClipBertError:
        return None
    trained = tags.get("clipbert.data_digest", NONE) if isinstance(tags, dict) else NONE
    now = data_digest(root)
    if NONE in (trained, now) or trained == now:
        return None
    return (
        f"the data changed since the training (DVC's hash was {trained[:12]} and is {now[:12]}): test items may be "
        "new, or may have been training items. Train again to compare models on them."
    )


def process_tags() -> dict[str, str]:
    """Return tags that identify this process and its machine; see `release.orphans`."""
    pid = os.getpid()
    return {
        "clipbert.host": platform.node() or NONE,
        "clipbert.pid": str(pid),
        "clipbert.pid_started": f"{psutil.Process(pid).create_time():.2f}",
    }


def git_commit(root: Path) -> str:
    """Return the commit that is checked out, or "none" without git, a repository or a first commit."""
    return git_output(root, "rev-parse", "--verify", "--quiet", "HEAD") or NONE


def read_committed(root: Path, name: str) -> str | None:
    """Return the content of a project's file in the commit that is checked out; None if it is not there."""
    return git_output(root, "show", f"HEAD:./{name}")


def git_dirty(root: Path) -> str:
    """Return "true" if files below `root` differ from the commit, "false" if none does, "none" without a commit."""
    if git_commit(root) == NONE:
        return NONE
    status = git_output(root, "status", "--porcelain", "--", ".", ":(exclude)dvc.lock", ":(exclude)mlflow/project.json")
    return NONE if status is None else str(bool(status)).lower()


def data_digest(root: Path) -> str:
    """Return DVC's hash of data/ from dvc.lock (the manifest's data) or data.dvc (tracked data), else "none"."""
    stages = _yaml(root / "dvc.lock").get("stages")
    ingest = stages.get("ingest") if isinstance(stages, dict) else None
    locked = _md5_of_data(ingest, "deps")
    return locked or _md5_of_data(_yaml(root / "data.dvc"), "outs") or NONE


def dvc_lock_digest(root: Path) -> str:
    """Return the SHA-256 of dvc.lock, or "none"."""
    lock = root / "dvc.lock"
    return sha256_file(lock) if lock.is_file() else NONE


def device_name() -> str:
    """Return the name of the GPU that torch uses in this process, else of the CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu ({os.cpu_count()} cores, {platform.machine()})"


def user_name() -> str:
    """Return the name of the current user, or "none" if the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return NONE


def git_output(root: Path, *arguments: str) -> str | None:
    """Return what `git` prints in a folder, without surrounding space; None where it fails or is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _md5_of_data(stage: Any, kind: str) -> str | None:
    entries = stage.get(kind) if isinstance(stage, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("path") == "data" and entry.get("md5"):
            return str(entry["md5"])
    return None
