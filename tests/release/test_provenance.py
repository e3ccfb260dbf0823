import subprocess

import pytest
import yaml

from clipbert import __version__
from clipbert.files.atomic import sha256_file
from clipbert.files.signed_json import write_signed_json
from clipbert.release.provenance import changed_data, provenance

MD5 = "0123456789abcdef0123456789abcdef.dir"


def git(folder, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.slow
def test_folder_without_git_or_dvc_says_none(tmp_path):
    tags = provenance(tmp_path)
    nothing = {name for name, value in tags.items() if value == "none"}
    assert {"clipbert.git_commit", "clipbert.git_dirty", "clipbert.dvc_lock", "clipbert.data_digest"} <= nothing
    assert tags["clipbert.version"] == __version__


@pytest.mark.slow
def test_machine_without_git_says_none(tmp_path, monkeypatch):
    git(tmp_path, "init")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance(tmp_path)["clipbert.git_commit"] == "none"


@pytest.mark.slow
def test_repository_before_its_first_commit_says_none(tmp_path):
    git(tmp_path, "init")
    assert provenance(tmp_path)["clipbert.git_commit"] == "none"


@pytest.mark.slow
def test_commit_and_what_makes_it_dirty(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    tags = provenance(tmp_path)
    assert tags["clipbert.git_commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert tags["clipbert.git_dirty"] == "false"
    (tmp_path / "code.py").write_text("a = 2\n")
    assert provenance(tmp_path)["clipbert.git_dirty"] == "true"


@pytest.mark.slow
def test_data_digest_is_that_of_the_manifest_then_that_of_data_dvc(tmp_path):
    (tmp_path / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": MD5, "path": "data", "hash": "md5"}]}))
    assert provenance(tmp_path)["clipbert.data_digest"] == MD5
    older = MD5.replace("0", "f")
    stages = {"ingest": {"deps": [{"path": "src", "md5": "1"}, {"path": "data", "md5": older}]}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    tags = provenance(tmp_path)
    assert tags["clipbert.data_digest"] == older
    assert tags["clipbert.dvc_lock"] == sha256_file(tmp_path / "dvc.lock")


@pytest.mark.slow
def test_broken_dvc_files_say_none(tmp_path):
    (tmp_path / "data.dvc").write_text("- just\n- a list\n")
    (tmp_path / "dvc.lock").write_text("stages: {ingest: [")
    assert provenance(tmp_path)["clipbert.data_digest"] == "none"


def test_data_that_changed_since_the_training_are_named(tmp_path):
    (tmp_path / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": MD5, "path": "data", "hash": "md5"}]}))
    run = tmp_path / "retrieval.json"
    assert changed_data(tmp_path, run) is None  # no run
    for trained in (MD5, "none"):
        write_signed_json(run, {"task": "retrieval", "tags": {"clipbert.data_digest": trained}})
        assert changed_data(tmp_path, run) is None
    write_signed_json(run, {"task": "retrieval", "tags": {"clipbert.data_digest": "f" * 32}})
    assert changed_data(tmp_path, run).startswith(
        "the data changed since the training (DVC's hash was ffffffffffff and is 0123456789ab)"
    )
