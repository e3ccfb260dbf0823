"""Two projects on one server, clones of one project, and what an older version left without an owner."""

import json
from pathlib import Path

import pytest
from policies import task_policy

from clipbert.config.schema import Params, ReleaseParams
from clipbert.errors import ClipBertError
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_experiment, open_store
from clipbert.release.ownership import IDENTITY, PROJECT_TAG, claim_model, identity
from clipbert.release.promotion import promote, rollback
from clipbert.release.tracking import start_training_run

NAME = "clipbert-retrieval"
OURS = Params(release=ReleaseParams(name="videos"))


@pytest.fixture
def shared(root: Path, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second project; both use one database as their store, which is neither's embedded one."""
    database = tmp_path / "shared.db"
    database.write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    other = tmp_path / "other"
    other.mkdir()
    return other


def test_another_projects_aliases_are_refused_and_stay(root, shared, release_in, predictions):
    release_in(root)(0, predictions(30))
    promote(root, "retrieval", task_policy())
    before = aliases(open_store(root), NAME)
    assert before == {"candidate": "1", "champion": "1"}
    attempts = (
        lambda: release_in(shared)(1, predictions(50)),
        lambda: promote(shared, "retrieval", task_policy()),
        lambda: rollback(shared, "retrieval"),
        lambda: start_training_run(shared, "retrieval", {}).__enter__(),
    )
    for attempt in attempts:
        with pytest.raises(
            ClipBertError, match=r"(?s)belongs to another project \(a project by .*release.name"
        ) as caught:
            attempt()
        assert "--set release.name=NAME" in str(caught.value)
        assert identity(root)["id"][:8] in str(caught.value)
    assert aliases(open_store(root), NAME) == before
    assert len(open_store(root).client.search_model_versions(f"name = '{NAME}'")) == 1


def test_a_name_of_its_own_keeps_both_apart(root, shared, release_in, predictions):
    release_in(root)(0, predictions(30))
    made = release_in(shared)(1, predictions(50), params=OURS)
    assert (made.name, made.version) == ("videos-retrieval", "1")
    assert promote(shared, "retrieval", task_policy(), OURS.release.name).name == "videos-retrieval"
    store = open_store(shared, "videos")
    assert aliases(store, "videos-retrieval") == {"candidate": "1", "champion": "1"}
    assert aliases(store, NAME) == {"candidate": "1"}
    assert {e.name for e in store.client.search_experiments()} >= {NAME, "videos-retrieval"}


def test_a_clone_with_the_committed_identity_is_the_same_project(root, shared, release_in, predictions):
    release_in(root)(0, predictions(30))
    (shared / "mlflow").mkdir()
    (shared / IDENTITY).write_bytes((root / IDENTITY).read_bytes())
    assert release_in(shared)(1, predictions(50)).version == "2"
    promote(shared, "retrieval", task_policy())
    assert aliases(open_store(root), NAME) == {"candidate": "2", "champion": "2"}


def test_what_an_older_version_made_is_adopted_with_a_line(root, shared, capsys):
    client = open_store(root).client
    client.create_experiment(NAME, artifact_location=str(root / "mlflow" / "artifacts"))
    client.create_registered_model(NAME)
    open_experiment(open_store(root), "retrieval")
    assert claim_model(open_store(root), NAME)
    said = capsys.readouterr().err
    assert f"MLflow experiment {NAME} had no owner" in said
    assert f"MLflow registered model {NAME} had no owner" in said
    assert client.get_registered_model(NAME).tags[PROJECT_TAG] == identity(root)["id"]
    open_experiment(open_store(root), "retrieval")
    assert "no owner" not in capsys.readouterr().err
    with pytest.raises(ClipBertError, match="belongs to another project"):
        claim_model(open_store(shared), NAME)


def test_a_version_of_another_project_under_our_model_keeps_its_alias(root, shared, release_in, predictions):
    release_in(root)(0, predictions(30))
    client = open_store(root).client
    client.set_model_version_tag(NAME, "1", "project", "f" * 32)
    with pytest.raises(ClipBertError, match=r"version 1 of clipbert-retrieval, which has the alias candidate, belongs"):
        release_in(root)(1, predictions(50))
    assert aliases(open_store(root), NAME) == {"candidate": "1"}


def test_the_embedded_store_is_this_projects_whatever_its_tags_say(root, release_in, predictions):
    release_in(root)(0, predictions(30))
    (root / IDENTITY).unlink()
    assert release_in(root)(1, predictions(50)).version == "2"


@pytest.mark.parametrize("content", ["", "[]", '{"name": "x"}'])
def test_a_broken_identity_is_named(root, content):
    (root / IDENTITY).write_text(content)
    with pytest.raises(ClipBertError, match=r"project\.json: expected this project's identity.*git checkout"):
        identity(root)


def test_the_identity_is_made_once_and_said(tmp_path, capsys):
    first = identity(tmp_path)
    assert "Created mlflow/project.json" in capsys.readouterr().err
    assert identity(tmp_path) == first == json.loads((tmp_path / IDENTITY).read_text())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", "a'b", "a:b"])
def test_names_that_mlflow_or_a_query_could_not_take(name):
    with pytest.raises(ValueError, match="name"):
        ReleaseParams(name=name)
