"""The state of a working tree: its digest, its patch, and what is left out of them."""

import os
import subprocess
from pathlib import Path

import pytest

from clipbert.release.source_tree import MAX_FILE_BYTES, committed_tree, source_tree

pytestmark = pytest.mark.slow


def git(folder: Path, *arguments: str, stdin: bytes | None = None) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, input=stdin, check=True, capture_output=True).stdout.decode().strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "a repository"
    (root / "src").mkdir(parents=True)
    (root / "src" / "code.py").write_text("a = 1\n")
    (root / "src" / "gone.py").write_text("b = 1\n")
    (root / "picture.png").write_bytes(bytes(range(256)))
    (root / "windows.txt").write_bytes(b"one\r\ntwo\r\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


def change(root: Path) -> None:
    (root / "src" / "code.py").write_text("a = 2\n")
    (root / "src" / "gone.py").unlink()
    (root / "src" / "new \u00e9.py").write_text("c = 1\n\ndiff --git a/x b/x\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "picture.png").write_bytes(bytes(range(255, -1, -1)) * 3)
    (root / "windows.txt").write_bytes(b"one\r\nthree\r\n")


def test_clean_tree_is_that_of_its_commit_and_the_files_of_a_run_do_not_count(repository):
    clean = source_tree(repository)
    assert (clean.commit, clean.patch, clean.omitted) == (git(repository, "rev-parse", "HEAD"), b"", {})
    assert clean.tree == git(repository, "rev-parse", "HEAD^{tree}") == committed_tree(repository, "HEAD")
    (repository / "dvc.lock").write_text("schema: '2.0'\n")
    (repository / "mlflow").mkdir()
    (repository / "mlflow" / "project.json").write_text("{}")
    assert source_tree(repository) == clean
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "the lock")
    assert committed_tree(repository, "HEAD") == clean.tree
    assert source_tree(repository).tree == clean.tree


def test_the_patch_restores_every_kind_of_change_exactly(repository, tmp_path):
    change(repository)
    objects = sorted((repository / ".git" / "objects").rglob("*"))
    index = (repository / ".git" / "index").read_bytes()
    found = source_tree(repository)
    assert sorted((repository / ".git" / "objects").rglob("*")) == objects
    assert (repository / ".git" / "index").read_bytes() == index
    other = tmp_path / "other"
    git(repository, "worktree", "add", "-q", str(other))
    git(other, "apply", "--binary", "-", stdin=found.patch)
    assert source_tree(other).tree == found.tree
    assert (other / "windows.txt").read_bytes() == b"one\r\nthree\r\n"
    assert os.access(other / "run.sh", os.X_OK)
    assert not (other / "src" / "gone.py").exists()
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "second")
    assert committed_tree(repository, "HEAD") == found.tree


def test_a_project_in_a_subfolder_ignores_the_rest_of_its_repository(repository):
    first = source_tree(repository / "src")
    assert first.tree == git(repository, "rev-parse", "HEAD:src")
    (repository / "windows.txt").write_text("changed\n")
    git(repository, "add", ".")
    assert source_tree(repository / "src") == first
    (repository / "src" / "code.py").write_text("a = 3\n")
    changed = source_tree(repository / "src")
    assert changed.tree != first.tree
    assert b"a/code.py" in changed.patch
    assert b"windows.txt" not in changed.patch


def test_secrets_and_large_files_stay_out_of_the_patch_and_are_named(repository, monkeypatch):
    planted = "pl4nted-T0ken-value"
    monkeypatch.setenv("SERVICE_TOKEN", planted)
    (repository / ".env").write_text("A=1\n")
    (repository / "deploy.pem").write_text("x\n")
    (repository / "src" / "code.py").write_text(f"a = 1\nkey = {planted!r}\n")
    (repository / "settings.yaml").write_text("url: s3://me:h1dden-Pass@bucket/x\n")
    (repository / "src" / "tokens.py").write_text("def sign(token: str, password: str) -> str:\n    return token\n")
    (repository / "big.bin").write_bytes(bytes(MAX_FILE_BYTES + 1))
    (repository / "nested").mkdir()
    git(repository / "nested", "init", "-q")
    (repository / "nested" / "x.py").write_text("x = 1\n")
    git(repository / "nested", "add", ".")
    git(repository / "nested", "commit", "-qm", "x")
    found = source_tree(repository)
    assert {name: reason.split(" ")[0] for name, reason in found.omitted.items()} == {
        ".env": "its",
        "big.bin": "untracked",
        "deploy.pem": "its",
        "nested/": "a",
        "settings.yaml": "its",
        "src/code.py": "its",
    }
    assert b"src/tokens.py" in found.patch
    assert planted.encode() not in found.patch
    assert b"h1dden" not in found.patch


def test_a_patch_that_would_be_too_large_leaves_out_its_largest_files(repository, monkeypatch):
    monkeypatch.setattr("clipbert.release.source_tree.MAX_PATCH_BYTES", 2000)
    (repository / "src" / "code.py").write_text("a = 2\n")
    (repository / "windows.txt").write_text("".join(f"line {n}\n" for n in range(1000)))
    found = source_tree(repository)
    assert list(found.omitted) == ["windows.txt"]
    assert len(found.patch) < 2000
    assert b"+a = 2" in found.patch


def test_without_a_repository_or_a_commit_there_is_no_tree(tmp_path):
    assert source_tree(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert source_tree(tmp_path) is None
