"""The model that a command uses: a folder, a registered version, a model of the hub, or the project's best one."""

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from clipbert.errors import ClipBertError
from clipbert.project import Project

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CONFIG = "config.json"
FORMS = (
    "expected a model folder, a registered version (models:/clipbert-open_qa@champion, models:/clipbert-open_qa/3) or "
    "the id of a model on the hub (owner/name)"
)


@dataclass(frozen=True)
class ChosenModel:
    """Model folder and what to call it.

    Attributes:
        name: for the user, as "models:/clipbert-open_qa/3 (champion)".
    """

    folder: Path
    name: str


def choose_model(project: Project, given: str | None, tasks: Sequence[str], scratch: ExitStack) -> ChosenModel:
    """Return the model that a user names, or else the champion of the first task that has one, or the last trained.

    MLflow is imported only where a version is in a store other than the project's own.

    Args:
        given: a folder, models:/NAME@ALIAS, models:/NAME/VERSION, or a hub id; None: the default.
        tasks: whose models the command can use.
        scratch: keeps downloaded files until it is closed.

    Raises:
        ClipBertError: the model does not exist; the message says what to do.
    """
    if given is None:
        return _default(project, tasks, scratch)
    if given.startswith("models:"):
        found = REGISTERED.fullmatch(given)
        if found is None:
            raise ClipBertError(f"--model {given}: not a registered version: {FORMS}.")
        version = _registered(project, found["name"], found["alias"] or found["version"], scratch)
        return version or _download(project, given, scratch)
    folder = Path(given).expanduser()
    if folder.is_dir():
        return ChosenModel(folder, given)
    if folder.exists() or not HUB_ID.fullmatch(given) or given.startswith("."):
        raise ClipBertError(f"--model {given}: not a folder: {FORMS}.")
    return _from_hub(given)


def _default(project: Project, tasks: Sequence[str], scratch: ExitStack) -> ChosenModel:
    for task in tasks:
        champion = _registered(project, f"{release_name(project)}-{task}", "champion", scratch)
        if champion is not None:
            return champion
    trained = [folder for task in tasks if (folder := project.model(task)) and (folder / CONFIG).is_file()]
    if not trained:
        folders = " or ".join(f"artifacts/models/{task}" for task in tasks)
        raise ClipBertError(
            f"no model of {' or '.join(tasks)}: no version is the champion in this project, and {project.root} has no "
            f"{folders}. Train one (`clipbert train {tasks[0]}`, or `make run` for the sample set), or name one "
            f"with --model: {FORMS.removeprefix('expected ')}."
        )
    folder = max(trained, key=lambda each: (each / CONFIG).stat().st_mtime)
    return ChosenModel(folder, f"{folder.relative_to(project.root)} (the last trained)")


def _registered(project: Project, name: str, wanted: str, scratch: ExitStack) -> ChosenModel | None:
    """Return a version of the store in use; None if the project's own store does not have it."""
    from clipbert.release.embedded_versions import embedded_version

    if os.environ.get("MLFLOW_TRACKING_URI"):
        separator = "/" if wanted.isdecimal() else "@"
        try:
            return _download(project, f"models:/{name}{separator}{wanted}", scratch)
        except ClipBertError:
            if wanted != "champion":
                raise
            return None
    found = embedded_version(project.root, name, wanted)
    if found is None:
        return None
    remark = "" if wanted.isdecimal() else f" ({wanted})"
    return ChosenModel(found.folder, f"models:/{name}/{found.version}{remark}")


def _download(project: Project, given: str, scratch: ExitStack) -> ChosenModel:
    from clipbert.files.leftovers import scratch_folder
    from clipbert.release.find_version import find_registered
    from clipbert.release.registry import download_model

    found = find_registered(project, release_name(project), given)
    place = scratch.enter_context(scratch_folder())
    folder = download_model(found.store, found.version.name, str(found.version.version), place)
    return ChosenModel(folder, f"models:/{found.version.name}/{found.version.version}")


def release_name(project: Project) -> str:
    """Return release.name of params.yaml, which the names of registered models start with.

    Other parameters do not matter here, and may be those of another version.
    """
    from clipbert.config.schema import Params
    from clipbert.config.yaml_io import parse_yaml

    default = Params().release.name
    try:
        stored = parse_yaml((project.root / "params.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # no project, or a file that other commands complain about
        return default
    section = stored.get("release") if isinstance(stored, dict) else None
    name = section.get("name") if isinstance(section, dict) else None
    return name if isinstance(name, str) else default


def _from_hub(name: str) -> ChosenModel:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx"])
    except Exception as error:  # the hub client and its HTTP library raise many types
        first = str(error).strip().partition("\n")[0]
        raise ClipBertError(
            f"--model {name}: not a folder, and the hub did not provide it ({first}). Check the id and the "
            "network (HF_HUB_OFFLINE), or download it on another machine and name its folder."
        ) from error
    return ChosenModel(Path(folder), f"{name} (hub)")
