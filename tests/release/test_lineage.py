"""Two versions from different data and parameters: what is stored about them, and that each is restored exactly."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_project import commit, run, set_params
from lineage_project import TASK, make_lineage_project, register_project, remove_cache, write_captions
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.errors import ClipBertError
from clipbert.release.connection import open_store
from clipbert.release.lineage import FACTS, lineage_facts
from clipbert.release.lineage_record import require_lineage
from clipbert.release.lock_file import md5_of, model_outputs, read_lock
from clipbert.release.registry import model_digest
from clipbert.release.rerun import rerun
from clipbert.release.restore import restore
from clipbert.release.store import Store

pytestmark = pytest.mark.slow
NAME = "clipbert-retrieval"


@dataclass
class Versions:
    """The project, and what held about its versions when they were registered."""

    root: Path
    store: Store
    commits: list[str]
    data: dict[str, str]
    facts: dict[str, dict[str, Any]]
    stderr: str = ""

    def version(self, number: str) -> Any:
        return self.store.client.get_model_version(NAME, number)

    def restore(self, number: str, destination: Path) -> Any:
        version = self.version(number)
        return restore(self.store, version, require_lineage(self.store, version), destination)

    def worktrees(self) -> int:
        return run("git", "worktree", "list", "--porcelain", cwd=self.root).stdout.count("worktree ")


def head(root: Path) -> str:
    return run("git", "rev-parse", "HEAD", cwd=root).stdout.strip()


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    """Version 1 is of a clean commit that has been pushed; version 2 of other data, with uncommitted changes."""
    base = tmp_path_factory.mktemp("lineage")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = make_lineage_project(base / "a project", base / "remote")
        run("dvc", "repro", "-q", cwd=root)
        register_project(root)
        commits = [head(root)]
        commit(root, "Train version 1")
        run("dvc", "push", "-q", cwd=root)
        commits.append(head(root))
        store = open_store(root)
        made = Versions(root, store, commits, {"1": md5_of(root / "data")}, {})
        made.facts["1"] = lineage_facts(store, made.version("1"))
        set_params(root, {"seed": 7})
        (root / "extra.py").write_text("more = True\n")
        (root / ".env").write_text("SERVICE_TOKEN=pl4nted-T0ken\n")
        write_captions(root, 60)
        run("dvc", "add", "-q", "data", cwd=root)
        run("dvc", "repro", "-q", cwd=root)
        register_project(root)
        made.data["2"] = md5_of(root / "data")
        made.facts["2"] = lineage_facts(store, made.version("2"))
        yield made


def test_facts_of_a_version_from_a_committed_tree(versions):
    facts = versions.facts["1"]
    assert set(facts) == set(FACTS)
    assert all(fact.holds for fact in facts.values())
    assert facts["source_saved"].reason == f"trained from the commit {versions.commits[0][:7]} without changes"
    assert facts["lock_committed"].reason == f"dvc.lock is in the commit {versions.commits[1][:7]}"
    assert facts["no_leakage"].reason == "1 of 40 val and test media resemble another split's"


def test_facts_of_a_version_from_uncommitted_changes(versions):
    facts = versions.facts["2"]
    assert [name for name, fact in facts.items() if not fact.holds] == ["source_saved", "lock_committed"]
    assert "which no commit and no experiment has" in facts["source_saved"].reason


def test_the_lock_file_a_version_names_is_stored_and_describes_it(versions):
    version = versions.version("2")
    stored = require_lineage(versions.store, version)
    assert version.tags["dvc_lock"] == stored.lineage.lock != "none"
    assert set(stored.stages) == {"ingest", "validate", "train", "evaluate"}
    present = read_lock((versions.root / "dvc.lock").read_text())
    assert stored.stages == present
    assert set(stored.lineage.outputs) == set(model_outputs(TASK))
    assert stored.lineage.data["md5"] == versions.data["2"]
    assert stored.source.omitted == {".env": "its name is that of a file with passwords or keys"}


@pytest.mark.parametrize(("number", "seed", "captions"), [("1", 0, 40), ("2", 7, 60)])
def test_each_version_is_restored_exactly(versions, tmp_path, number, seed, captions):
    digest = versions.version(number).tags["digest"]
    restored = versions.restore(number, tmp_path / "restored version")
    folder = restored.folder
    assert restored.missing == []
    assert yaml.safe_load((folder / "params.yaml").read_text())["seed"] == seed
    assert md5_of(folder / "data") == versions.data[number]
    assert len((folder / "data" / "captions.jsonl").read_text().splitlines()) == captions
    assert (folder / "extra.py").exists() == (number == "2")
    assert not (folder / ".env").exists()
    assert model_digest(folder / "artifacts" / "models" / TASK) == digest
    assert run("dvc", "status", cwd=folder).stdout.strip() == "Data and pipelines are up to date."
    run("git", "worktree", "remove", "--force", str(folder), cwd=versions.root)


def test_verification_reruns_and_tells_the_same_model_from_another(versions, tmp_path, monkeypatch):
    monkeypatch.chdir(versions.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    one = CliRunner().invoke(app, ["lineage", f"{TASK}/1", "--verify", "--json"])
    assert one.exit_code == 0, one.output
    verification = json.loads(one.stdout)["verification"]
    assert verification["outcome"] == "identical"
    assert verification["digest"] == versions.version("1").tags["digest"]
    assert verification["same"] == {"artifacts/manifest": True}
    assert (verification["metrics"], verification["environment"]) == ({}, {})
    assert versions.worktrees() == 1
    restored = versions.restore("2", tmp_path / "two")
    set_params(restored.folder, {"seed": 8})
    version = versions.version("2")
    printed: list[str] = []
    other = rerun(versions.store, version, require_lineage(versions.store, version), restored.folder, printed.append)
    assert other.outcome in ("within noise", "different")
    assert other.digest != other.expected
    mean, low, high = other.difference
    assert (other.outcome == "within noise") == (low <= 0 <= high)
    before, after = other.metrics["retrieval/r1"]
    assert mean == pytest.approx((after - before) / 100)
    assert any("Running stage 'train'" in line for line in printed)
    (restored.folder / "stage.py").write_text("raise SystemExit('broken')\n")
    with pytest.raises(ClipBertError, match=r"exit code .*its output is above"):
        rerun(versions.store, version, require_lineage(versions.store, version), restored.folder, printed.append)
    assert any("broken" in line for line in printed)
    run("git", "worktree", "remove", "--force", str(restored.folder), cwd=versions.root)


def test_the_command_shows_and_restores_a_version(versions, tmp_path, monkeypatch):
    monkeypatch.chdir(versions.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shown = CliRunner().invoke(app, ["lineage", f"{TASK}@candidate"], catch_exceptions=False, env={"COLUMNS": "100"})
    assert shown.exit_code == 0
    for words in ("clipbert-retrieval 2 (candidate)", f"commit {versions.commits[1]}", "seed: 7 (default 0)"):
        assert words in shown.stdout
    assert "retrieval/r1" in shown.stdout
    assert "not stored: .env" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 100
    values = json.loads(CliRunner().invoke(app, ["lineage", f"{NAME}/1", "--json"]).stdout)
    assert values["version"]["version"] == "1"
    assert values["data"]["digest"] == versions.data["1"]
    assert values["code"]["commit"] == versions.commits[0]
    assert values["code"]["dirty"] is False
    assert {name: fact["holds"] for name, fact in values["facts"].items()} == dict.fromkeys(FACTS, True)
    done = CliRunner().invoke(app, ["lineage", "1", "--task", TASK, "--restore", str(tmp_path / "one")])
    assert done.exit_code == 0
    assert f"is restored in {tmp_path / 'one'}" in done.output
    assert (tmp_path / "one" / "data" / "captions.jsonl").exists()
    run("git", "worktree", "remove", "--force", str(tmp_path / "one"), cwd=versions.root)
    with pytest.raises(ClipBertError, match="expected a registered version"):
        CliRunner().invoke(app, ["lineage", "workspace"], catch_exceptions=False)
    with pytest.raises(ClipBertError, match="needs its task"):
        CliRunner().invoke(app, ["lineage", "1"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("full", "expected a folder that is empty"),
        ("absent/inner", "is not a folder. Create it first"),
        ("{root}/inner", "inside the project"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(versions, tmp_path, place, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(ClipBertError, match=message):
        versions.restore("1", Path(str(tmp_path / place).replace(f"{tmp_path}/{{root}}", str(versions.root))))
    assert os.listdir(tmp_path) == ["full"]
    assert os.listdir(tmp_path / "full") == ["file"]
    assert versions.worktrees() == 1


def test_a_commit_that_the_repository_lacks_is_named(versions, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    run("git", "init", "-q", cwd=other)
    version = versions.version("1")
    stored = require_lineage(versions.store, version)
    with pytest.raises(ClipBertError, match=rf"the commit {versions.commits[0]}, which is not in this repository"):
        restore(replace(versions.store, root=other), version, stored, tmp_path / "out")
    assert os.listdir(tmp_path) == ["other"]


def test_a_patch_that_does_not_apply_leaves_nothing(versions, tmp_path):
    version = versions.version("2")
    stored = require_lineage(versions.store, version)
    # Before the first commit of the parameters there was no file that the patch could change.
    tree = run("git", "mktree", cwd=versions.root).stdout.strip()
    empty = run("git", "commit-tree", tree, "-m", "Empty", cwd=versions.root).stdout.strip()
    wrong = replace(stored, source=replace(stored.source, commit=empty))
    with pytest.raises(ClipBertError, match=r"(?s)its patch does not apply to the commit .*Nothing was left"):
        restore(versions.store, version, wrong, tmp_path / "out")
    assert os.listdir(tmp_path) == []
    assert versions.worktrees() == 1


def test_a_patch_that_was_changed_in_the_store_is_refused(versions, tmp_path):
    version = versions.version("2")
    stored = require_lineage(versions.store, version)
    (patch,) = (versions.root / "mlflow" / "artifacts").rglob("changes.patch")
    original = patch.read_bytes()
    try:
        patch.write_bytes(original + b"\n")
        with pytest.raises(ClipBertError, match="is not the file that was stored"):
            restore(versions.store, version, stored, tmp_path / "out")
    finally:
        patch.write_bytes(original)
    assert os.listdir(tmp_path) == []


def test_a_killed_restore_is_replaced_by_the_next(versions, tmp_path):
    temporary = tmp_path / ".out.restore.tmp"
    run("git", "worktree", "add", "-q", "--detach", str(temporary), "HEAD", cwd=versions.root)
    assert versions.restore("1", tmp_path / "out").folder == tmp_path / "out"
    assert os.listdir(tmp_path) == ["out"]
    run("git", "worktree", "remove", "--force", str(tmp_path / "out"), cwd=versions.root)


def test_data_come_from_the_remote_and_what_is_missing_there_is_named(versions, tmp_path):
    cache = versions.root / ".dvc" / "cache"
    shutil.copytree(cache, tmp_path / "kept")
    try:
        remove_cache(versions.root)
        restored = versions.restore("1", tmp_path / "one")
        assert md5_of(restored.folder / "data") == versions.data["1"]
        assert restored.missing == []
        run("git", "worktree", "remove", "--force", str(restored.folder), cwd=versions.root)
        # Version 2 was never pushed.
        with pytest.raises(ClipBertError, match=rf"its data \({versions.data['2']}, .*`dvc pull` failed") as caught:
            versions.restore("2", tmp_path / "two")
        assert "Run `dvc push` where the data are" in str(caught.value)
        assert sorted(os.listdir(tmp_path)) == ["kept"]
        assert versions.worktrees() == 1
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", cache)


def test_changes_that_are_committed_later_count_as_saved(versions):
    commit(versions.root, "Train version 2")
    facts = lineage_facts(versions.store, versions.version("2"))
    assert facts["lock_committed"].holds
    # .env, which is not stored, is in the commit: the tree is not known to be the same.
    assert not facts["source_saved"].holds


def test_a_version_without_a_lock_file_is_completed_when_there_is_one(
    root: Path, release_embedded: Callable, predictions: Callable, capsys, tmp_path
):
    made = release_embedded(0, predictions(30))
    assert "dvc.lock is missing, so this version cannot be restored" in capsys.readouterr().err
    store = open_store(root)
    version = store.client.get_model_version(made.name, made.version)
    stored = require_lineage(store, version)
    assert (stored.stages, stored.lineage.lock_problem) == ({}, "dvc.lock is missing")
    facts = lineage_facts(store, version)
    assert not any(fact.holds for fact in facts.values())
    with pytest.raises(ClipBertError, match="without a git commit"):
        restore(store, version, stored, tmp_path / "out")
    outs = [{"path": path, "md5": md5} for path, md5 in stored.lineage.outputs.items()]
    stage = {"deps": [{"path": "data", "md5": "ab.dir", "size": 3, "nfiles": 1}], "outs": outs}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"all": stage}}))
    completed = require_lineage(store, version)
    assert completed.lineage.lock_problem is None
    assert completed.lineage.data == {"md5": "ab.dir", "size": 3, "nfiles": 1}
    (root / "dvc.lock").unlink()
    assert require_lineage(store, store.client.get_model_version(made.name, made.version)) == completed
    assert release_embedded(0, predictions(30)) == made  # a registration without a lock keeps the stored one
    assert require_lineage(store, store.client.get_model_version(made.name, made.version)) == completed


def test_a_version_of_an_older_clipbert_has_no_facts(root: Path, release_embedded: Callable, predictions: Callable):
    made = release_embedded(0, predictions(30))
    store = open_store(root)
    store.client.delete_model_version_tag(made.name, made.version, "lineage")
    version = store.client.get_model_version(made.name, made.version)
    assert {fact.reason.split(" ")[2] for fact in lineage_facts(store, version).values()} == {"version"}
    with pytest.raises(ClipBertError, match="registered by an older version"):
        require_lineage(store, version)
