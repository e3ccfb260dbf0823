"""Ownership of experiments and registered models: projects that share a server do not move each other's aliases.

A project's identity is a random id in mlflow/project.json, created when the project first uses a store. The file is
committed to git, so that every clone of the project has the same identity. Experiments, registered models and versions
have the id as a tag.
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
from clipbert.release.store import Store, is_absent

IDENTITY = Path("mlflow", "project.json")
PROJECT_TAG = "clipbert.project"
MADE_TAG = "clipbert.project_made"
VERSION_TAG = "project"  # the tags of versions have no prefix


def identity(root: Path) -> dict[str, str]:
    """Return {"id", "made"} of the project at `root`; create mlflow/project.json if it does not exist.

    Raises:
        ClipBertError: the file is damaged or cannot be written.
    """
    path = root / IDENTITY
    if not path.exists():
        day = datetime.now(UTC).date().isoformat()
        made = {"id": uuid.uuid4().hex, "made": f"{root.resolve().name} by {user_name()}@{platform.node()} on {day}"}
        if create_json(path, made):
            errors.print(
                f"Created {IDENTITY}, this project's identity on MLflow servers. Commit it, so that clones of this "
                "project share it.",
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
    """Tag an experiment as this project's; an experiment without an owner is claimed with a message.

    Raises:
        ClipBertError: it belongs to another project.
    """
    tags = experiment.tags
    if _is_claimed(store, tags, "experiment", experiment.name):
        return
    for key, value in ownership_tags(store).items():
        store.client.set_experiment_tag(str(experiment.experiment_id), key, value)


def claim_model(store: Store, name: str) -> bool:
    """Tag a registered model as this project's and return whether it exists; call it before an alias is moved.

    Raises:
        ClipBertError: the model, or a version with an alias, belongs to another project.
    """
    try:
        model = store.client.get_registered_model(name)
    except MlflowException as error:
        if is_absent(error):
            return False
        raise
    if not _is_claimed(store, model.tags, "registered model", name):
        for key, value in ownership_tags(store).items():
            store.client.set_registered_model_tag(name, key, value)
    if not store.embedded:
        for alias, version in model.aliases.items():
            check_version_owner(store, store.client.get_model_version(name, version), alias)
    return True


def check_version_owner(store: Store, version: Any, alias: str) -> None:
    """Check that a version does not belong to another project; versions of older releases have no owner.

    Raises:
        ClipBertError: it belongs to another project.
    """
    owner = version.tags.get(VERSION_TAG)
    if not store.embedded and owner not in (None, identity(store.root)["id"]):
        what = f"version {version.version} of {version.name}, which has the alias {alias},"
        raise _other_project(store, what, owner, version.tags.get(MADE_TAG, "unknown"))


def version_ownership_tags(store: Store) -> dict[str, str]:
    """Return the tags that mark a new version as this project's."""
    ours = identity(store.root)
    return {VERSION_TAG: ours["id"], MADE_TAG: ours["made"]}


def ownership_tags(store: Store) -> dict[str, str]:
    """Return the tags that mark an experiment or registered model as this project's."""
    ours = identity(store.root)
    return {PROJECT_TAG: ours["id"], MADE_TAG: ours["made"]}


def _is_claimed(store: Store, tags: dict[str, str], kind: str, name: str) -> bool:
    """Return whether the tags name this project; False if the object has no owner.

    Raises:
        ClipBertError: it belongs to another project.
    """
    owner = tags.get(PROJECT_TAG)
    if owner == identity(store.root)["id"]:
        return True
    if owner is not None and not store.embedded:
        raise _other_project(store, f"{kind} {name}", owner, tags.get(MADE_TAG, "unknown"))
    if owner is None:
        errors.print(
            f"MLflow {kind} {name} had no owner (an older version created it) and now belongs to this project. If "
            f"another project created it, set release.name in params.yaml and remove its tag {PROJECT_TAG}.",
        )
    return False


def _other_project(store: Store, what: str, owner: str, made: str) -> ClipBertError:
    ours = identity(store.root)
    return ClipBertError(
        f"MLflow store {store.display_uri}: {what} belongs to another project ({made}; id {owner[:8]}, this project's "
        f"is {ours['id'][:8]}); nothing was changed.\n"
        f"release.name is {store.name}: set it to a name of this project's own, in params.yaml or with "
        f"`--set release.name=NAME`, and rerun the command. If both are the same project, copy {IDENTITY} from "
        "the other one and commit it."
    )
