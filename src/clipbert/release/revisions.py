"""Outputs of the pipeline at a git revision or in a DVC experiment: dvc.lock at the commit, files from DVC's cache.

Both are read with the programs git and dvc. Nothing in the working tree changes.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from clipbert.errors import ClipBertError, first_line

TIMEOUT_S = 600.0  # of `dvc get`, which may download a file from the remote
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")
MOST_COMMITS = 200  # that are searched for results
SHORT = 7  # characters of a commit for a reader


@dataclass(frozen=True)
class Revision:
    """A commit that a name stands for."""

    kind: str  # "DVC experiment" or "git revision"
    commit: str


class Revisions:
    """The commits of a project's repository and the outputs of their pipelines."""

    def __init__(self, root: Path) -> None:
        """Args: `root`, the project's folder."""
        self.root = root.resolve()

    def find(self, name: str, kind: str | None = None) -> list[Revision]:
        """Return the commits that a name stands for, each once, experiments first.

        Args:
            kind: "DVC experiment" or "git revision" alone; None for both.
        """
        found = []
        if kind in (None, "DVC experiment"):
            listed = self._git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
            for line in listed.splitlines():
                commit, _, reference = line.partition(" ")
                if (match := EXPERIMENT.fullmatch(reference)) and match[1] == name:
                    found.append(Revision("DVC experiment", commit))
        if kind in (None, "git revision") and not name.startswith("-"):
            commit = (self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") or "").strip()
            if commit and commit not in [revision.commit for revision in found]:
                found.append(Revision("git revision", commit))
        return found

    def recent(self) -> list[tuple[str, str]]:
        """Return the DVC experiments, and the commits of all branches, the newest first: (words, commit)."""
        found = []
        listed = (
            self._git("for-each-ref", "--sort=-creatordate", "--format=%(objectname) %(refname)", "refs/exps") or ""
        )
        for line in listed.splitlines():
            commit, _, reference = line.partition(" ")
            if match := EXPERIMENT.fullmatch(reference):
                found.append((f"the DVC experiment {match[1]}", commit))
        arguments = ("log", "--branches", "HEAD", f"--max-count={MOST_COMMITS}", "--format=%H", "--", "dvc.lock")
        for commit in (self._git(*arguments) or "").splitlines():
            found.append((f"commit {commit[:SHORT]}", commit))
        return found

    def outputs(self, commit: str) -> dict[str, str | None]:
        """Return the files and folders of dvc.lock at a commit: path to MD5, None where DVC recorded none.

        Raises:
            ClipBertError: the commit has no dvc.lock, or it is damaged.
        """
        text = self._git("show", f"{commit}:./dvc.lock")
        if text is None:
            raise ClipBertError(
                f"The commit {commit[:SHORT]} has no dvc.lock, so it records no results. Run `dvc repro` and commit "
                "dvc.lock, or name another revision."
            )
        try:
            stages = yaml.safe_load(text)["stages"].values()
            outs = [out for stage in stages for out in stage.get("outs") or []]
            return {str(out["path"]): out.get("md5") for out in outs}
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ClipBertError(
                f"dvc.lock of the commit {commit[:SHORT]} cannot be read ({first_line(error)}). Expected the file that "
                "`dvc repro` writes. Restore it, or name another revision."
            ) from error

    def file(self, commit: str, path: str, md5: str | None, scratch: Path) -> Path:
        """Return a local copy of an output: the file in DVC's cache, or what `dvc get` writes into `scratch`.

        Raises:
            ClipBertError: neither the cache nor a remote has it.
        """
        if md5 is not None and self._cache is not None:
            cached = self._cache / "files" / "md5" / md5[:2] / md5[2:]
            if cached.is_file():
                return cached
        copy = scratch / commit[:SHORT] / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        done = self._dvc("get", str(self.root), path, "--rev", commit, "--out", str(copy), "--force")
        if done.returncode or not copy.is_file():
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            reason = next((line for line in lines if line.startswith("ERROR")), lines[0] if lines else "no message")
            raise ClipBertError(
                f"{path} of the commit {commit[:SHORT]} is neither in DVC's cache nor in a remote (dvc: {reason}). "
                "Fetch it: `dvc push` where it was made, then here `dvc fetch --all-commits`, or for an experiment "
                "`dvc exp pull origin NAME`; or run it again."
            )
        return copy

    @cached_property
    def _cache(self) -> Path | None:
        """The folder of DVC's cache; None without DVC."""
        done = self._dvc("cache", "dir")
        return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None

    def _git(self, *arguments: str) -> str | None:
        """Return the output of git; None where it fails, as without a repository."""
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *arguments], capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    def _dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run DVC; a program that is missing or too slow fails like one that ends with an error."""
        command = [sys.executable, "-m", "dvc", *arguments]
        environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
        try:
            return subprocess.run(
                command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return subprocess.CompletedProcess(command, 1, "", first_line(error))
