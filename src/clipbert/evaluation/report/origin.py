"""What a model was trained on, as its report says it: data, code, parameters, device, duration, energy, MLflow run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from clipbert.durations import format_duration
from clipbert.redact import redact

NONE = "none"
UI = "http://127.0.0.1:5000"  # of `make ui`, which shows the embedded store


@dataclass(frozen=True)
class Origin:
    """The training of the model that a report is about.

    Attributes:
        run: the content of artifacts/runs/TASK.json.
        sizes: split to the number of its videos or images, and of its texts.
        defaults: the default parameters of the task's training, by dotted name.
        version: the name and number of the registered version with this model, if there is one.
        ui: the address of MLflow's pages for a store without a server of its own.
        media: what the media of the task are called.
    """

    run: Mapping[str, Any]
    sizes: Mapping[str, tuple[int, int]]
    defaults: Mapping[str, Any]
    version: tuple[str, str] | None = None
    ui: str = UI
    media: str = "videos"


@dataclass(frozen=True)
class Fact:
    """A name and a value, with an address that the value links to."""

    name: str
    value: str
    link: str = ""
    notes: list[str] = field(default_factory=list)


def facts(origin: Origin, history: pd.DataFrame, validation: pd.DataFrame, metric: str) -> list[Fact]:
    """Return the facts about a training; what was not recorded is left out."""
    tags = {name.removeprefix("clipbert."): str(value) for name, value in dict(origin.run.get("tags") or {}).items()}
    found = [*_data(origin, tags), *_code(tags), _parameters(origin)]
    if tags.get("device"):
        found.append(Fact("device", tags["device"]))
    if seconds := origin.run.get("seconds"):
        steps = f", {int(history['step'].iloc[-1])} steps" if len(history) else ""
        found.append(Fact("duration", f"{format_duration(float(seconds))}{steps}{_best_epoch(validation, metric)}"))
    joules = float(history["joules"].sum()) if "joules" in history else 0.0
    if joules > 0:
        found.append(Fact("energy", f"{joules / 3600:.1f} Wh ({joules / 1000:.1f} kJ)"))
    if started := tags.get("pid_started"):
        found.append(Fact("started", f"{datetime.fromtimestamp(float(started), UTC):%Y-%m-%d %H:%M} UTC"))
    return [*found, *_mlflow(origin)]


def changed_parameters(params: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the parameters that differ from their defaults: name to (value, default), as they are recorded."""
    known = {name: str(value) for name, value in defaults.items()}
    return {
        name: (str(value), known[name])
        for name, value in sorted(params.items())
        if name in known and _plain(str(value)) != _plain(known[name])
    }


def _data(origin: Origin, tags: Mapping[str, str]) -> list[Fact]:
    counts = [f"{split} {media:,} {origin.media}, {texts:,} texts" for split, (media, texts) in origin.sizes.items()]
    sizes = "; ".join(counts)
    found = [Fact("data", sizes)] if sizes else []
    digest = tags.get("data_digest", NONE)
    return [*found, Fact("data digest", digest if digest != NONE else "none: data/ is not tracked by DVC")]


def _code(tags: Mapping[str, str]) -> list[Fact]:
    commit = tags.get("git_commit", NONE)
    changes = " with uncommitted changes" if tags.get("git_dirty") == "true" else ""
    version = f", clipbert {tags['version']}" if tags.get("version") else ""
    return [Fact("git commit", f"{commit[:12]}{changes}{version}" if commit != NONE else f"none{version}")]


def _parameters(origin: Origin) -> Fact:
    changed = changed_parameters(dict(origin.run.get("params") or {}), origin.defaults)
    if not changed:
        return Fact("parameters", "all at their defaults")
    notes = [f"{name}: {value} (default {default})" for name, (value, default) in changed.items()]
    return Fact("parameters", f"{len(changed)} differ from the defaults", notes=notes)


def _best_epoch(validation: pd.DataFrame, metric: str) -> str:
    if metric not in validation or "epoch" not in validation or not len(validation):
        return ""
    best = validation.iloc[int(validation[metric].astype(float).to_numpy().argmax())]
    return f", best epoch {int(best['epoch'])} of {int(validation['epoch'].max())}"


def _mlflow(origin: Origin) -> list[Fact]:
    uri = str(origin.run.get("tracking_uri") or "")
    server = uri if uri.startswith(("http://", "https://")) else origin.ui
    server = redact(server).replace("***@", "").rstrip("/")  # a link without credentials
    found = []
    if run_id := origin.run.get("run_id"):
        name = str(origin.run.get("run_name") or run_id)
        found.append(Fact("MLflow run", name, f"{server}/#/runs/{run_id}"))
    if origin.version is not None:
        name, version = origin.version
        found.append(Fact("model version", f"{name} version {version}", f"{server}/#/models/{name}/versions/{version}"))
    return found


def _plain(text: str) -> Any:
    """Return a number for a text that is one, so that 2 and 2.0 are equal."""
    try:
        return float(text)
    except ValueError:
        return text
