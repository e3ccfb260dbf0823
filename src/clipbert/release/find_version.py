"""Registered version that a user names."""

from dataclasses import dataclass
from typing import Any

from clipbert.config.tasks import check_task, task_names
from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.release.aliases import CANDIDATE, CHAMPION, aliases
from clipbert.release.compared_models import ModelFinder
from clipbert.release.connection import open_store
from clipbert.release.store import EMBEDDED, Store, embedded_uri, store_errors, tracking_uri


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry.

    Attributes:
        version: MLflow's model version.
        run: MLflow's run of it.
    """

    store: Store
    task: str
    version: Any
    run: Any


def find_registered(project: Project, release_name: str, name: str, task: str | None = None) -> RegisteredModel:
    """Return the version that a name stands for: TASK, TASK@ALIAS, NAME/VERSION, models:/..., or a number.

    Args:
        release_name: release.name.
        task: the task of a number or of an alias alone.

    Raises:
        ClipBertError: the version does not exist, or the store cannot be used.
    """
    root = project.root
    if tracking_uri(root) == embedded_uri(root) and not (root / EMBEDDED).is_file():
        raise ClipBertError(f"{name}: no model is registered yet ({EMBEDDED} does not exist). Run `dvc repro` first.")
    store = open_store(root, release_name)
    models = {store.model_name(each): each for each in task_names()} | {each: each for each in task_names()}
    wanted = name
    if name in models:
        wanted = f"{models[name]}@{_alias_in_use(store, models[name])}"
    elif name.isdecimal():
        if task is None:
            raise ClipBertError(f"{name}: a version number needs its task, as --task retrieval or retrieval/{name}.")
        wanted = f"{check_task(task)}/{name}"
    match = ModelFinder(project, release_name, task).find(wanted)
    if match.version is None:
        raise ClipBertError(
            f"{name} is the {match.kind} {match.reference}; expected a registered version, such as TASK@champion, "
            "TASK/3 or models:/NAME/3."
        )
    return RegisteredModel(store, match.tasks[0], match.version, match.run)


def _alias_in_use(store: Store, task: str) -> str:
    with store_errors(store.uri, "cannot be read"):
        known = aliases(store, store.model_name(task))
    found = next((alias for alias in (CHAMPION, CANDIDATE) if alias in known), None)
    if found is None:
        raise ClipBertError(
            f"{task}: no version of {store.model_name(task)} is the champion or the candidate in {store.display_uri}. "
            f"Register a model: `clipbert register {task}`."
        )
    return found
