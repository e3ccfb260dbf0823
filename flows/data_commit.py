"""Commit of data/: `dvc add`, a git commit of data.dvc on a branch, and `dvc push`.

Only the file data.dvc is committed, whatever else has changed in the clone, and no branch is checked out.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.files.atomic import write_json
from flows.supervisor import environment

DATA_FILE = "data.dvc"
MERGED = Path("artifacts", "inbox", "merged")  # a JSON file for each merged batch that is not committed
PLAN = Path("artifacts", "inbox", "staging", "plan.json")  # of a batch whose merge was interrupted
BASE = Path("artifacts", "inbox", "base.json")  # digests of data.dvc before these batches and of the commits of them

Run = Callable[[str, list[str]], list[str]]


class DataCommitError(Exception):
    """data/ or the branch is not in a state that can be committed; the message says what to do."""


@dataclass(frozen=True)
class DataCommit:
    """Commit of data.dvc.

    Attributes:
        commit: its id; None: the branch has this data already.
        branch: on which it is.
        message: of the commit.
    """

    commit: str | None
    branch: str
    message: str


def has_uncommitted_batches(project: Path) -> bool:
    """Return whether a batch was merged, or is being merged, that is not committed yet."""
    return (project / PLAN).is_file() or any((project / MERGED).glob("*.json"))


def check_committed(project: Path, branch: str | None, run: Run) -> None:
    """Check that data/ is what data.dvc names, and data.dvc is that of the branch, before new data is merged.

    Otherwise the commit would contain changes of somebody else, or undo some. Does nothing if batches wait for their
    commit: it was checked before them.

    Args:
        branch: of the commit; None: the branch that is checked out.
        run: runs a command by name and arguments and returns its lines of output.

    Raises:
        DataCommitError: data/ has changes, or the branch has other data.
    """
    if has_uncommitted_batches(project):
        return
    file = project / DATA_FILE
    if not file.exists():
        _write_base(project, [])
        return
    lines = run("dvc status", ["dvc", "status", "--json", DATA_FILE])
    changes = json.loads("".join(line for line in lines if line.startswith("{")) or "{}")
    if changes:
        raise DataCommitError(
            f"data/ is not what {DATA_FILE} names: {_shown(changes)}. Commit your changes (dvc add data; git commit "
            f"{DATA_FILE}), or get the committed data (dvc pull {DATA_FILE}, or dvc checkout {DATA_FILE})."
        )
    target = branch or _current_branch(project)
    committed = _committed(project, target)
    if committed not in (None, file.read_bytes()):
        raise DataCommitError(
            f"{DATA_FILE} differs from that of the branch {target} (inbox.branch). Commit it there, or get that data: "
            f"git checkout {target} -- {DATA_FILE}; dvc checkout {DATA_FILE}."
        )
    _write_base(project, [_digest(file.read_bytes())])


def commit_data(project: Path, branch: str | None, run: Run) -> DataCommit:
    """Add data/ to DVC's cache and commit data.dvc; what a killed process did of it is not repeated.

    Raises:
        DataCommitError: the branch has other data meanwhile, or git does not accept the commit.
    """
    run("dvc add", ["dvc", "--wait-for-lock", "add", "data"])
    target = branch or _current_branch(project)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((project / MERGED).glob("*.json"))]
    message = describe(records)
    committed = _committed(project, target)
    new = (project / DATA_FILE).read_bytes()
    commit = None
    if committed != new:
        base = json.loads((project / BASE).read_text(encoding="utf-8")) if (project / BASE).is_file() else []
        if committed is not None and _digest(committed) not in base:
            raise DataCommitError(
                f"the branch {target} got another {DATA_FILE} while new data was merged. The new data is in data/ and "
                f"in DVC's cache. Merge the two by hand: {DATA_FILE} here is the new one, and that of the branch is "
                f"shown by git show {target}:{DATA_FILE}."
            )
        _write_base(project, [*base, _digest(new)])  # first: a kill after the commit must not make it a stranger's
        commit = _commit(project, target, branch is None or branch == _current_branch(project, None), message)
    for path in sorted((project / MERGED).glob("*.json")):
        path.unlink()
    return DataCommit(commit, target, message)


def describe(records: list[dict[str, Any]]) -> str:
    """Return the message of a commit: a subject and the counts of each batch."""
    media = sum(record["media"] for record in records)
    texts = sum(sum(record["texts"].values()) for record in records)
    lines = [f"Add {_count(media, 'media file')} and {_count(texts, 'text')} from the inbox", ""]
    for record in records:
        splits = ", ".join(f"{count} {split}" for split, count in record["splits"].items())
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(record["texts"].items()))
        lines.append(f"Batch {record['batch']}")
        lines += [f"  media: {record['media']}" + (f" ({splits})" if splits else ""), f"  texts: {kinds or 'none'}"]
        lines += [f"  refused: {record['refused']}"] if record["refused"] else []
    return "\n".join(lines) + "\n"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_base(project: Path, digests: list[str]) -> None:
    write_json(project / BASE, digests)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _commit(project: Path, branch: str, checked_out: bool, message: str) -> str:
    """Commit data.dvc on a branch; return the commit's id."""
    if checked_out:
        # `add` first: git commits a path that is new only if it is known
        _git(project, "add", "--", DATA_FILE)
        _git(project, "commit", "--quiet", "--only", "-m", message, "--", DATA_FILE)
        return _git(project, "rev-parse", "HEAD").strip()
    # Without a checkout: the tree of the branch with another data.dvc, in an index of its own.
    parent = _find(project, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}")
    start = parent or _git(project, "rev-parse", "HEAD").strip()
    path = _git(project, "rev-parse", "--show-prefix").strip() + DATA_FILE
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
        _git(project, "read-tree", start, variables=index)
        blob = _git(project, "hash-object", "-w", "--", DATA_FILE).strip()
        _git(project, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", variables=index)
        tree = _git(project, "write-tree", variables=index).strip()
    commit = _git(project, "commit-tree", tree, "-p", start, "-m", message).strip()
    _git(project, "update-ref", "-m", "inbox", f"refs/heads/{branch}", commit, parent or "0" * 40)
    return commit


def _committed(project: Path, branch: str) -> bytes | None:
    """Return data.dvc of a branch; that of HEAD if the branch does not exist; None without the file."""
    revision = f"refs/heads/{branch}"
    if _find(project, "rev-parse", "--verify", "--quiet", revision) is None:
        revision = "HEAD"
    done = _run_git(project, "show", f"{revision}:./{DATA_FILE}")
    return done.stdout if done.returncode == 0 else None


def _current_branch(project: Path, missing: str | None = "") -> str:
    """Return the branch that is checked out.

    Raises:
        DataCommitError: none is (a detached HEAD), unless `missing` is None.
    """
    found = _find(project, "symbolic-ref", "--quiet", "--short", "HEAD")
    if found is None and missing is not None:
        raise DataCommitError(
            f"{project}: no git branch is checked out, so the commit of new data would be lost. Check one out, or set "
            "inbox.branch in params.yaml."
        )
    return found or ""


def _find(project: Path, *arguments: str) -> str | None:
    done = _run_git(project, *arguments)
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _git(project: Path, *arguments: str, variables: dict[str, str] | None = None) -> str:
    done = _run_git(project, *arguments, variables=variables)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise DataCommitError(f"git {arguments[0]} failed in {project}: {reason}")
    return done.stdout.decode(errors="replace")


def _run_git(
    project: Path, *arguments: str, variables: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["git", *arguments],
        cwd=project,
        env=environment() | {"GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true"} | (variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def _shown(changes: dict[str, Any]) -> str:
    """Return DVC's list of changes as words, such as "modified: data"."""
    found = [
        f"{what}: {path}"
        for entries in changes.values()
        for entry in entries
        if isinstance(entry, dict)
        for outs in entry.values()
        if isinstance(outs, dict)
        for path, what in outs.items()
    ]
    return ", ".join(found) or json.dumps(changes)
