"""Commits of new data with real git and DVC: only data.dvc, on the right branch, whatever was killed before."""

import json
import shutil
from pathlib import Path

import pytest
from dvc_project import run

from clipbert.files.atomic import write_json
from flows.data_commit import (
    MERGED,
    PLAN,
    DataCommitError,
    check_committed,
    commit_data,
    describe,
    has_uncommitted_batches,
)

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

RECORD = {"batch": "b1", "texts": {"caption": 2, "open_qa": 1}, "splits": {"train": 1}, "media": 1, "refused": 3}


def make_clone(root: Path) -> Path:
    """A git and DVC project with data/ and another file, all committed on the branch main."""
    (root / "data").mkdir(parents=True)
    (root / "data/captions.jsonl").write_text("one\n")
    (root / "other.txt").write_text("committed\n")
    (root / ".gitignore").write_text("/data\n/artifacts\n")
    run("git", "init", "-q", "-b", "main", cwd=root)
    for name, value in (("user.email", "test@example.com"), ("user.name", "Test")):
        run("git", "config", name, value, cwd=root)
    run("dvc", "init", "-q", cwd=root)
    run("dvc", "add", "-q", "data", cwd=root)
    run("git", "add", "-A", cwd=root)
    run("git", "commit", "-q", "-m", "Start", cwd=root)
    return root


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clone(tmp_path_factory.mktemp("clone") / "project")


@pytest.fixture
def clone(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "project", symlinks=True)


def command(clone: Path):  # type: ignore[no-untyped-def]
    return lambda name, words: run(*words, cwd=clone).stdout.splitlines()


def merge(clone: Path, text: str, batch: str = "b1") -> None:
    """What `clipbert inbox` leaves: new rows in data/ and a record of the batch."""
    (clone / "data/captions.jsonl").chmod(0o644)
    (clone / "data/captions.jsonl").write_text(text)
    write_json(clone / MERGED / f"{batch}.json", RECORD | {"batch": batch})


def git(clone: Path, *words: str) -> str:
    return run("git", *words, cwd=clone).stdout.strip()


def test_a_commit_holds_the_new_data_and_nothing_else(clone: Path) -> None:
    (clone / "other.txt").write_text("being edited\n")
    (clone / "staged.txt").write_text("staged\n")
    git(clone, "add", "staged.txt")
    check_committed(clone, None, command(clone))
    merge(clone, "one\ntwo\n")
    assert has_uncommitted_batches(clone)
    made = commit_data(clone, None, command(clone))
    assert made.branch == "main"
    assert made.commit == git(clone, "rev-parse", "main")
    assert git(clone, "show", "--format=%s", "--name-only", "HEAD").split("\n") == [
        "Add 1 media file and 3 texts from the inbox",
        "",
        "data.dvc",
    ]
    assert git(clone, "log", "-1", "--format=%b") == (
        "Batch b1\n  media: 1 (1 train)\n  texts: 2 caption, 1 open_qa\n  refused: 3"
    )
    assert git(clone, "status", "--porcelain").split("\n") == ["M other.txt", "A  staged.txt"]
    assert not has_uncommitted_batches(clone)
    assert commit_data(clone, None, command(clone)).commit is None


def test_a_commit_on_another_branch_checks_nothing_out(clone: Path) -> None:
    (clone / "other.txt").write_text("being edited\n")
    start = git(clone, "rev-parse", "main")
    for number, text in enumerate(("one\ntwo\n", "one\ntwo\nthree\n")):
        check_committed(clone, "arrivals/data", command(clone))
        merge(clone, text)
        made = commit_data(clone, "arrivals/data", command(clone))
        assert made.commit == git(clone, "rev-parse", "arrivals/data")
        assert git(clone, "rev-list", "--count", "main..arrivals/data") == str(number + 1)
        assert git(clone, "diff", "--name-only", "main", "arrivals/data") == "data.dvc"
    assert git(clone, "rev-parse", "main") == start == git(clone, "rev-parse", "HEAD")
    assert git(clone, "symbolic-ref", "--short", "HEAD") == "main"
    assert git(clone, "status", "--porcelain").split("\n") == ["M data.dvc", " M other.txt"]


def test_a_killed_commit_is_finished(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before `dvc add`, before the commit and before the records are removed; more data arrives before each retry."""
    check_committed(clone, None, command(clone))
    merge(clone, "one\ntwo\n")
    check_committed(clone, None, command(clone))  # data/ has changes, and they are ours

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flows.data_commit._commit", killed)
        with pytest.raises(KeyboardInterrupt):
            commit_data(clone, None, command(clone))
    merge(clone, "one\ntwo\nthree\n", "b2")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            commit_data(clone, None, command(clone))
    assert git(clone, "log", "--format=%s").split("\n") == ["Add 2 media files and 6 texts from the inbox", "Start"]
    assert has_uncommitted_batches(clone)
    merge(clone, "one\ntwo\nthree\nfour\n", "b3")
    hook = clone / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho not on Fridays >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(DataCommitError, match=r"git commit failed in .*: not on Fridays"):
        commit_data(clone, None, command(clone))
    assert has_uncommitted_batches(clone)
    hook.unlink()
    assert commit_data(clone, None, command(clone)).commit is not None


def test_changes_of_somebody_else_are_not_committed_with_the_new_data(clone: Path) -> None:
    (clone / "data/captions.jsonl").chmod(0o644)
    (clone / "data/captions.jsonl").write_text("half an edit")
    with pytest.raises(DataCommitError, match=r"data/ is not what data.dvc names: modified: data. Commit your changes"):
        check_committed(clone, None, command(clone))
    shutil.rmtree(clone / "data")
    with pytest.raises(DataCommitError, match=r"deleted: data.*dvc pull data.dvc"):
        check_committed(clone, None, command(clone))


def test_a_branch_with_other_data_is_not_overwritten(clone: Path) -> None:
    git(clone, "branch", "arrivals")
    check_committed(clone, "arrivals", command(clone))
    merge(clone, "one\ntwo\n")
    git(clone, "checkout", "-q", "arrivals")
    kept = (clone / "data.dvc").read_text()
    (clone / "data.dvc").write_text(kept.replace("size: 4", "size: 5"))
    git(clone, "commit", "-q", "-am", "Other data")
    git(clone, "checkout", "-q", "main")
    with pytest.raises(DataCommitError, match=r"the branch arrivals got another data.dvc while new data was merged"):
        commit_data(clone, "arrivals", command(clone))
    assert git(clone, "log", "-1", "--format=%s", "arrivals") == "Other data"
    (clone / MERGED / "b1.json").unlink()
    git(clone, "checkout", "-q", "--", "data.dvc")
    run("dvc", "checkout", "-q", "--force", cwd=clone)
    with pytest.raises(DataCommitError, match=r"data.dvc differs from that of the branch arrivals"):
        check_committed(clone, "arrivals", command(clone))


def test_a_detached_head_needs_a_branch_by_name(clone: Path) -> None:
    git(clone, "checkout", "-q", "--detach")
    with pytest.raises(DataCommitError, match=r"no git branch is checked out.*set inbox.branch"):
        check_committed(clone, None, command(clone))


def test_an_interrupted_merge_counts_as_uncommitted(tmp_path: Path) -> None:
    assert not has_uncommitted_batches(tmp_path)
    (tmp_path / PLAN).parent.mkdir(parents=True)
    (tmp_path / PLAN).write_text(json.dumps({}))
    assert has_uncommitted_batches(tmp_path)


def test_the_message_of_rows_alone() -> None:
    record = {"batch": "b", "texts": {"caption": 1}, "splits": {}, "media": 0, "refused": 0}
    assert describe([record]) == (
        "Add 0 media files and 1 text from the inbox\n\nBatch b\n  media: 0\n  texts: 1 caption\n"
    )
