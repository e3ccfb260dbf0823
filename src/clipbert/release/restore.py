"""Restore the code, data and parameters of a registered version in a folder of its own, a git worktree."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clipbert.console import console
from clipbert.errors import ClipBertError, first_line
from clipbert.files.atomic import write_errors
from clipbert.files.locks import file_lock
from clipbert.release.lineage_record import StoredLineage
from clipbert.release.lock_file import DATA, LOCK, data_entry, output_hashes, write_lock
from clipbert.release.provenance import NONE
from clipbert.release.revisions import SHORT
from clipbert.release.source_tree import GitError, run_git, source_tree
from clipbert.release.store import Store
from clipbert.release.stored_source import PARAMS, PATCH, read_source_file

DVC_TIMEOUT_S = 24 * 3600.0  # of a download of the data
DATA_FILE = "data.dvc"
NO_HOOKS = ("-c", "core.hooksPath=/dev/null")


@dataclass(frozen=True)
class Restored:
    """A restored version.

    Attributes:
        folder: the project's folder in the worktree.
        missing: outputs of stages that are in neither the cache nor the remote; `dvc repro` makes them again.
        notes: what differs from the training, in sentences.
    """

    folder: Path
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def restore(store: Store, version: Any, stored: StoredLineage, destination: Path) -> Restored:
    """Write the code, data and parameters of a version to a folder: git's worktree of its commit, patched.

    The worktree uses the DVC cache and the remotes of this project. If something is missing, the message names it and
    nothing is left.

    Args:
        version: MLflow's model version.
        destination: a folder that does not exist or is empty.

    Raises:
        ClipBertError: the folder cannot be used, or the commit, the patch or the data are missing or do not fit.
    """
    title, root, destination = f"{version.name} version {version.version}", store.root, destination.absolute()
    _check_stored(root, title, stored)
    _check_destination(root, destination)
    patch = b""
    if stored.source.patch != NONE:
        lineage = stored.lineage
        patch = read_source_file(store, lineage.run_id, lineage.source, PATCH, stored.source.patch, title)
    with _worktree(root, stored.source.commit, destination) as folder:
        notes = _restore_code(folder, title, stored, patch)
        if PARAMS in stored.source.omitted or stored.source.params_redacted:
            content = read_source_file(store, stored.lineage.run_id, stored.lineage.source, PARAMS, None, title)
            (folder / PARAMS).write_bytes(content)
            notes.append(f"{PARAMS} has *** in the place of a password or token; write it before a stage needs it.")
        (folder / LOCK).write_text(write_lock(stored.stages), encoding="utf-8")
        notes += _restore_data(root, folder, title, stored)
        missing = _restore_outputs(folder, stored)
        place = folder.relative_to(_temporary(destination))
    return Restored(destination / place, missing, notes)


def remove_restored(root: Path, destination: Path) -> None:
    """Remove a folder that `restore` wrote, with git's record of it."""
    _remove_worktree(root, destination)


def _check_stored(root: Path, title: str, stored: StoredLineage) -> None:
    commit = stored.source.commit
    if commit == NONE:
        raise ClipBertError(
            f"{title} was registered without a git commit, so its code is not known. Commit the project, then train "
            "and register again."
        )
    if stored.lineage.lock_problem is not None:
        raise ClipBertError(
            f"{title} has no {LOCK}: {stored.lineage.lock_problem}. Its data cannot be named. Train with `dvc repro`, "
            f"then `clipbert register {stored.lineage.task}`."
        )
    try:
        run_git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError as error:
        raise ClipBertError(
            f"{title} was trained from the commit {commit}, which is not in this repository. Fetch it: `git fetch "
            f"origin {commit}`, or run this command in the clone where it was trained."
        ) from error


def _check_destination(root: Path, destination: Path) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ClipBertError(f"--restore {destination}: expected a folder that is empty or does not exist yet.")
    if not destination.parent.is_dir():
        raise ClipBertError(f"--restore {destination}: {destination.parent} is not a folder. Create it first.")
    if destination.resolve().is_relative_to(root.resolve()):
        raise ClipBertError(
            f"--restore {destination}: is inside the project, whose files would then include it. Name a folder "
            f"outside of {root}."
        )


def _temporary(destination: Path) -> Path:
    return destination.parent / f".{destination.name}.restore.tmp"


@contextlib.contextmanager
def _worktree(root: Path, commit: str, destination: Path) -> Iterator[Path]:
    """Yield the project's folder in a new worktree, which moves to `destination` when the block ends without an error.

    Restores of one repository wait for each other; the folder that a killed one left is removed.
    """
    temporary = _temporary(destination)
    common = Path(os.fsdecode(run_git(root, "rev-parse", "--path-format=absolute", "--git-common-dir")).strip())
    prefix = os.fsdecode(run_git(root, "rev-parse", "--show-prefix")).strip()

    def wait() -> None:
        console.print("Another version is being restored; this one waits.")

    lock = file_lock(common / "clipbert-restore.lock", -1, wait, lambda _: None)
    with write_errors(destination), lock:
        _remove_worktree(root, temporary)
        try:
            run_git(root, *NO_HOOKS, "worktree", "add", "--quiet", "--detach", str(temporary), commit)
            yield temporary / prefix
            if destination.exists():
                destination.rmdir()
            run_git(root, "worktree", "move", str(temporary), str(destination))
        except GitError as error:
            _remove_worktree(root, temporary)
            raise ClipBertError(
                f"--restore {destination}: git cannot check out {commit[:SHORT]}: {error}. Nothing was left."
            ) from error
        except BaseException:
            _remove_worktree(root, temporary)
            raise


def _remove_worktree(root: Path, folder: Path) -> None:
    if folder.exists():
        with contextlib.suppress(GitError):
            run_git(root, "worktree", "remove", "--force", "--force", str(folder))
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(GitError):
        run_git(root, "worktree", "prune")


def _restore_code(folder: Path, title: str, stored: StoredLineage, patch: bytes) -> list[str]:
    """Apply the patch and compare the files with those of the training; return notes about what differs."""
    source = stored.source
    if patch:
        try:
            run_git(folder, "apply", "--binary", "--whitespace=nowarn", "-", stdin=patch)
        except GitError as error:
            raise ClipBertError(
                f"{title}: its patch does not apply to the commit {source.commit[:SHORT]}: {error}. Nothing was left. "
                f"The patch is {PATCH} among the artifacts of run {stored.lineage.run_id}."
            ) from error
    found = source_tree(folder)
    if found is None or found.tree != source.tree:
        raise ClipBertError(
            f"{title}: the restored files are not those of the training: their git tree is "
            f"{'none' if found is None else found.tree[:12]}, expected {source.tree[:12]}. Nothing was left. A file "
            "that git filters or converts on this machine can be the cause (.gitattributes, core.autocrlf)."
        )
    notes = [f"{name} is not restored: {reason}." for name, reason in source.omitted.items() if name != PARAMS]
    if stored.lineage.source_from == "registration":
        notes.append("The code and parameters are those at the registration; the training did not store its own.")
    return notes


def _restore_data(root: Path, folder: Path, title: str, stored: StoredLineage) -> list[str]:
    """Check out data/ as the model's dvc.lock names it, from the cache or the remote."""
    _share_cache(root, folder)
    entry = data_entry(stored.stages)
    if entry is None or "md5" not in entry:
        return ["The model has no data of its own in dvc.lock; data/ is not restored."]
    notes = []
    if not (folder / DATA_FILE).is_file() or _data_md5(folder) != entry["md5"]:
        notes.append(f"{DATA_FILE} of the training was another one than its {LOCK}; {LOCK} names the data it used.")
        outs = [{"hash": "md5", **entry}]
        (folder / DATA_FILE).write_text(yaml.safe_dump({"outs": outs}, sort_keys=False), encoding="utf-8")
    checkout = _dvc(folder, "checkout", "--force", DATA_FILE)
    if checkout.returncode:
        fetch = _dvc(folder, "pull", "--force", DATA_FILE)
        if fetch.returncode:
            size = f"{int(entry.get('size', 0)) / 1e6:,.1f} MB in {int(entry.get('nfiles', 0)):,} files"
            raise ClipBertError(
                f"{title}: its data ({entry['md5']}, {size}) are not complete in DVC's cache, and `dvc pull` failed: "
                f"{_reason(fetch)}\nNothing was left. Run `dvc push` where the data are, and name that remote here "
                "with `dvc remote add -d storage URL`."
            )
    return notes


def _restore_outputs(folder: Path, stored: StoredLineage) -> list[str]:
    """Check out the outputs of the stages that the cache or the remote has; return those that are missing."""
    names = sorted(output_hashes(stored.stages))
    if _dvc(folder, "checkout", "--force", "--allow-missing", *names).returncode:
        _dvc(folder, "pull", "--force", "--allow-missing", *names)
    missing = [name for name in names if not (folder / name).exists()]
    if missing and _dvc(folder, "pull", "--force", "--allow-missing", *missing).returncode == 0:
        missing = [name for name in missing if not (folder / name).exists()]
    return missing


def _share_cache(root: Path, folder: Path) -> None:
    """Give a worktree the cache of the project, and its settings that are not in git, such as remotes."""
    local = root / ".dvc" / "config.local"
    copy = folder / ".dvc" / "config.local"
    if local.is_file():
        shutil.copy2(local, copy)
    cache = _dvc(root, "cache", "dir")
    done = cache
    if cache.returncode == 0:
        done = _dvc(folder, "config", "--local", "cache.dir", str((root / cache.stdout.strip()).resolve()))
    if done.returncode:
        raise ClipBertError(f"{folder}: DVC cannot be used here: {_reason(done)}. Nothing was left.")
    copy.chmod(0o600)


def _data_md5(folder: Path) -> str | None:
    try:
        outs = yaml.safe_load((folder / DATA_FILE).read_text(encoding="utf-8"))["outs"]
        return next((str(out["md5"]) for out in outs if out["path"] == DATA), None)
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("ERROR")), lines[0] if lines else "no message")


def _dvc(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run DVC in a folder; a program that is missing or too slow fails like one that ends with an error."""
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=DVC_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", first_line(error))
