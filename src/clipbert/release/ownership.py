"""Whose an experiment and a registered model are: two projects on one server must not take each other's aliases.

A project's identity is a random id in mlflow/project.json, made when the project first uses a store. The file belongs
into git, so every clone of the project has the same identity. Experiments, registered models and versions carry the id
as a tag.
"""

import json
import platform
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.files.atomic import create_json
from clipbert.release.provenance import user_name
from clipbert.release.store import Store

IDENTITY = Path("mlflow", "project.json")
PROJECT_TAG = "clipbert.project"
MADE_TAG = "clipbert.project_made"
VERSION_TAG = "project"  # of a version, whose tags have no prefix


def identity(root: Path) -> dict[str, str]:
    """Return {"id", "made"} of the project at `root`, written to mlflow/project.json when it is not there.

    Raises:
        ClipBertError: the file is broken or cannot be written.
    """
    path = root / IDENTITY
    if not path.exists():
        day = datetime.now(UTC).date().isoformat()
        made = {"id": uuid.uuid4().hex, "made": f"{root.resolve().name} by {user_name()}@{platform.node()} on {day}"}
        if create_json(path, made):
            errors.print(
                f"Made {IDENTITY}, this project's identity on MLflow servers. Commit it, so that clones of this "
                "project have the same.",
                markup=False,
            )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"id": str(found["id"]), "made": str(found.get("made", "unknown"))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClipBertError(
            f'{path}: expected this project\'s identity, a JSON object with "id" ({type(error).__name__}: {error}). '
            f"Restore it with `git checkout {IDENTITY}`, or delete it if it was never committed."
        ) from error


def claim_experiment(store: Store, experiment: Any) -> None:
    """Mark an experiment as this project's; one without an owner, of an older version, is adopted with a line.

    Raises:
        ClipBertError: it belongs to another project.
    """
    tags = experiment.tags
    if _is_ours(store, tags, "experiment", experiment.name):
        return
    for key, value in _tags(store).items():
        store.client.set_experiment_tag(str(experiment.experiment_id), key, value)


def claim_model(store: Store, name: str) -> bool:
    """Mark a registered model as this project's, if it exists; whether it does.

    Call it before an alias of the model is moved.

    Raises:
        ClipBertError: the model, or a version that has one of its aliases, belongs to another project.
    """
    try:
        model = store.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    if not _is_ours(store, model.tags, "registered model", name):
        for key, value in _tags(store).items():
            store.client.set_registered_model_tag(name, key, value)
    if not store.embedded:
        for alias, version in model.aliases.items():
            check_version_owner(store, store.client.get_model_version(name, version), alias)
    return True


def check_version_owner(store: Store, version: Any, alias: str) -> None:
    """Check that a version is this project's; versions without an owner are those of older versions of it.

    Raises:
        ClipBertError: it belongs to another project.
    """
    owner = version.tags.get(VERSION_TAG)
    if not store.embedded and owner not in (None, identity(store.root)["id"]):
        what = f"version {version.version} of {version.name}, which has the alias {alias},"
        raise _refusal(store, what, owner, version.tags.get(MADE_TAG, "unknown"))


def version_ownership_tags(store: Store) -> dict[str, str]:
    """The tags that mark a new version as this project's."""
    ours = identity(store.root)
    return {VERSION_TAG: ours["id"], MADE_TAG: ours["made"]}


def ownership_tags(store: Store) -> dict[str, str]:
    """The tags that mark a new experiment or registered model as this project's."""
    return _tags(store)


def _tags(store: Store) -> dict[str, str]:
    ours = identity(store.root)
    return {PROJECT_TAG: ours["id"], MADE_TAG: ours["made"]}


def _is_ours(store: Store, tags: dict[str, str], kind: str, name: str) -> bool:
    """Whether it is marked as ours already; False when it is to be marked."""
    owner = tags.get(PROJECT_TAG)
    if owner == identity(store.root)["id"]:
        return True
    if owner is not None and not store.embedded:
        raise _refusal(store, f"{kind} {name}", owner, tags.get(MADE_TAG, "unknown"))
    if owner is None:
        errors.print(
            f"MLflow {kind} {name} had no owner (an older version made it): it is marked as this project's now. If "
            f"another project made it, set release.name in params.yaml and remove its tag {PROJECT_TAG}.",
            markup=False,
        )
    return False


def _refusal(store: Store, what: str, owner: str, made: str) -> ClipBertError:
    ours = identity(store.root)
    return ClipBertError(
        f"MLflow store {store.shown}: {what} belongs to another project ({made}; id {owner[:8]}, this project's is "
        f"{ours['id'][:8]}); nothing was changed.\n"
        f"release.name is {store.name}: give this project a name of its own there, in params.yaml or with "
        f"`--set release.name=NAME`, and run the command again. If both are the same project, copy {IDENTITY} from "
        "the other one, and commit it."
    )
