"""Files of a project's working tree as git sees them: the commit, a digest of all files, and the patch on the commit.

The digest is git's tree object of the project's folder, so equal digests mean equal files. It is computed in an index
and an object store of its own; nothing in the repository changes.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipbert.redact import contains_secret
from clipbert.release.provenance import NONE, git_commit

# Files that the pipeline itself writes; `provenance.git_dirty` ignores them too.
WRITTEN_BY_RUNS = ("dvc.lock", "mlflow/project.json")
MAX_FILE_BYTES = 2**20  # of an untracked file
MAX_PATCH_BYTES = 8 * 2**20
GIT_TIMEOUT_S = 120.0
# Names of untracked files that hold credentials by convention.
SECRET_NAMES = (".env", ".netrc", ".pgpass", "id_rsa", "id_ecdsa", "id_ed25519", ".htpasswd", ".git-credentials")
SECRET_SUFFIXES = (".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx")
SECRET_WORDS = ("secret", "credential", "password")
TEXT_SUFFIXES = (".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".j2", ".css", ".js")


@dataclass(frozen=True)
class SourceTree:
    """State of a working tree.

    Attributes:
        commit: the commit that is checked out.
        tree: the digest of the project's files, without `WRITTEN_BY_RUNS` and `omitted`.
        patch: turns the commit's files into these, as `git apply` reads it; empty for a clean tree.
        omitted: changed files that are in neither `tree` nor `patch`, with the reason.
    """

    commit: str
    tree: str
    patch: bytes = b""
    omitted: dict[str, str] = field(default_factory=dict)


class GitError(Exception):
    """A git command failed; the message is git's."""


def source_tree(root: Path) -> SourceTree | None:
    """Return the state of the project's files; None without git, a repository or a first commit.

    Untracked files that git does not ignore are part of it. Left out are large untracked files, and files with a name
    or a change that looks like a password, token or key.
    """
    commit = git_commit(root)
    if commit == NONE:
        return None
    try:
        with _ScratchIndex(root) as index:
            omitted = index.add_working_tree()
            patch = index.patch(omitted)
            return SourceTree(commit, index.tree(), patch, dict(sorted(omitted.items())))
    except GitError:
        return None


def committed_tree(root: Path, commit: str) -> str | None:
    """Return the digest that `source_tree` has for a clean checkout of a commit; None if it cannot be read."""
    try:
        with _ScratchIndex(root) as index:
            index.git("read-tree", commit)
            return index.tree()
    except GitError:
        return None


def run_git(root: Path, *arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> bytes:
    """Return the output of git in a folder.

    Raises:
        GitError: git is missing, too slow, or failed.
    """
    command = ["git", "-C", str(root), *arguments]
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            command, input=stdin, env=environment, capture_output=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(str(error)) from error
    if done.returncode:
        raise GitError(done.stderr.decode(errors="replace").strip() or f"git {arguments[0]} failed")
    return done.stdout


class _ScratchIndex:
    """Copy of the repository's index that writes its objects to a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> "_ScratchIndex":
        paths = run_git(
            self.root, "rev-parse", "--path-format=absolute", "--git-path", "objects", "--git-path", "index"
        )
        objects, index = os.fsdecode(paths).splitlines()
        self.prefix = os.fsdecode(run_git(self.root, "rev-parse", "--show-prefix")).strip()
        self._folder = tempfile.TemporaryDirectory()
        scratch = Path(self._folder.name)
        (scratch / "objects").mkdir()
        if Path(index).is_file():
            shutil.copy2(index, scratch / "index")  # with the file times that spare reading every file
        others = [objects, *filter(None, [os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES")])]
        self._environment = {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(others),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def git(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        return run_git(self.root, *arguments, stdin=stdin, env=self._environment)

    def add_working_tree(self) -> dict[str, str]:
        """Add the working tree to the index; return the untracked files that were left out, with the reason."""
        self.git("add", "-u", "--", ".")
        listed = self.git("ls-files", "--others", "--exclude-standard", "-z", "--", ".")
        wanted, omitted = [], {}
        for name in filter(None, os.fsdecode(listed).split("\0")):
            if reason := _reason_to_omit(self.root / name):
                omitted[name] = reason
            else:
                wanted.append(name)
        self._update("add", wanted)
        return omitted

    def patch(self, omitted: dict[str, str]) -> bytes:
        """Return the patch from the commit to the index; files with secrets are reset and added to `omitted`."""
        names, parts = self._diff()
        dropped = {
            name: "its change contains what looks like a password, token or key"
            for name, part in zip(names, parts, strict=True)
            if contains_secret(part.decode(errors="replace"), is_code=name.endswith(TEXT_SUFFIXES))
        }
        size = sum(map(len, parts))
        for name, part in sorted(zip(names, parts, strict=True), key=lambda pair: len(pair[1]), reverse=True):
            if size <= MAX_PATCH_BYTES:
                break
            dropped.setdefault(name, f"the patch would be larger than {MAX_PATCH_BYTES >> 20} MiB")
            size -= len(part)
        if dropped:
            omitted |= dropped
            self._update("reset", list(dropped))
            names, parts = self._diff()
        return b"".join(parts)

    def tree(self) -> str:
        """Return the tree of the project's folder in the index, without `WRITTEN_BY_RUNS`."""
        self.git("rm", "-q", "--cached", "--force", "--ignore-unmatch", "--", *WRITTEN_BY_RUNS)
        arguments = [f"--prefix={self.prefix}"] if self.prefix else []
        return self.git("write-tree", *arguments).decode().strip()

    def _diff(self) -> tuple[list[str], list[bytes]]:
        """Return the changed files and the part of the patch about each."""
        paths = ["--", ".", *(f":(exclude){name}" for name in WRITTEN_BY_RUNS)]
        options = ["--cached", "--relative", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv"]
        listed = self.git("diff", *options, "--name-only", "-z", "HEAD", *paths)
        names = [name for name in os.fsdecode(listed).split("\0") if name]
        patch = self.git(
            "diff", *options, "--binary", "--full-index", "--src-prefix=a/", "--dst-prefix=b/", "HEAD", *paths
        )
        parts: list[list[bytes]] = []
        for line in _lines(patch):
            # A line of a file begins with a space, + or -, and one of a binary file has no space.
            if line.startswith(b"diff --git "):
                parts.append([])
            parts[-1].append(line)
        return names, [b"".join(part) for part in parts]

    def _update(self, command: str, names: Sequence[str]) -> None:
        if names:
            listed = "\0".join(names)
            options = ["-q"] if command == "reset" else []
            self.git(
                "--literal-pathspecs",
                command,
                *options,
                "--pathspec-from-file=-",
                "--pathspec-file-nul",
                stdin=os.fsencode(listed),
            )


def _lines(data: bytes) -> list[bytes]:
    """Return the lines of `data` with their ends, split at line feeds alone."""
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _reason_to_omit(path: Path) -> str | None:
    name = path.name.lower()
    if path.is_dir():
        return "a folder with a git repository of its own"
    stem = name.removesuffix(".py")
    if (
        name.startswith(SECRET_NAMES)
        or name.endswith(SECRET_SUFFIXES)
        or (stem == name and any(word in name for word in SECRET_WORDS))
    ):
        return "its name is that of a file with passwords or keys"
    try:
        if not path.is_symlink() and path.stat().st_size > MAX_FILE_BYTES:
            return f"untracked and larger than {MAX_FILE_BYTES >> 20} MiB"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None
