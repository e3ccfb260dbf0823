"""Plan of a study: its trainings, each with its parameters and the name of its experiment."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.config.fields import short_name
from clipbert.config.load import load_params
from clipbert.config.recipes import overrides_of
from clipbert.errors import ClipBertError
from clipbert.study.grid import AxisSetting, Grid

BASE = "base"
LONGEST_SLUG = 60  # characters


@dataclass(frozen=True)
class Setting:
    """Parameters of a training without its seed.

    Attributes:
        label: "base", or the parameters that differ from the base.
        overrides: KEY=VALUE on top of params.yaml, with the budget and the task.
        changes: the parameters that differ from the base, by dotted path.
        params: all parameters that a training depends on, by dotted path.
    """

    label: str
    overrides: tuple[str, ...]
    changes: dict[str, Any]
    params: dict[str, Any]


@dataclass(frozen=True)
class PlannedAxis:
    """An axis whose settings are named as the reader of a table expects: (label in this axis, label of the setting)."""

    name: str
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Point:
    """One training: a setting and a seed; `name` is that of its DVC experiment."""

    name: str
    setting: Setting
    seed: int

    @property
    def overrides(self) -> tuple[str, ...]:
        """KEY=VALUE of all parameters that the study sets."""
        return (*self.setting.overrides, f"seed={self.seed}")


@dataclass(frozen=True)
class Plan:
    """All trainings of a study.

    Attributes:
        settings: the base first, each once.
        clips: numbers of clips in evaluation, `evaluate.clips` of the base among them.
        base_clips: that number.
    """

    grid: Grid
    settings: tuple[Setting, ...]
    axes: tuple[PlannedAxis, ...]
    clips: tuple[int, ...]
    base_clips: int

    @property
    def points(self) -> Iterator[Point]:
        """The trainings: all settings with the first seed, then with the second, and so on."""
        for seed in self.grid.seeds:
            for setting in self.settings:
                yield Point(f"{self.grid.name}-{_slug(setting.label)}-seed{seed}", setting, seed)


def make_plan(grid: Grid, params: Path, recipes: Path) -> Plan:
    """Return the plan of a grid on top of a parameter file.

    Settings with equal parameters are trained once, whatever axes they belong to.

    Raises:
        ClipBertError: a parameter does not exist, or a value is invalid; the message names the grid file and the axis.
    """
    common = overrides_of(recipes, grid.recipe) if grid.recipe else []
    common += [*_overrides(grid.params or {}), f"train.budget={grid.budget_text}", f"tasks_run=[{grid.task}]"]
    base = load_params(params, common, source=f"{grid.path}: params:")
    clips = tuple(sorted({*grid.clips, base.evaluate.clips}))
    found: dict[str, Setting] = {}

    def add(where: str, setting: AxisSetting) -> str:
        overrides = [*common, *_overrides(setting.changes)]
        loaded = load_params(params, overrides, source=f"{grid.path}: {where}:")
        values, base_values = loaded.flat(), base.flat()
        changes = {name: value for name, value in values.items() if value != base_values[name]}
        key = json.dumps(changes, sort_keys=True)
        label = setting_label(changes, grid.task)
        parameters = loaded.training_parameters(grid.task)
        return found.setdefault(key, Setting(label, tuple(overrides), changes, parameters)).label

    add("params", AxisSetting(None, {}))
    axes = []
    for axis in grid.axes:
        settings = [(setting, add(f"axes.{axis.name}", setting)) for setting in axis.settings]
        named = [(setting.label or setting_label(setting.changes, grid.task), label) for setting, label in settings]
        if BASE not in [label for _, label in named]:
            named.insert(0, (BASE, BASE))
        axes.append(PlannedAxis(axis.name, tuple(named)))
    names = [_slug(setting.label) for setting in found.values()]
    if len(set(names)) < len(names):
        raise ClipBertError(f"{grid.path}: axes: two settings have the same name; give one of them a label.")
    return Plan(grid, tuple(found.values()), tuple(axes), clips, base.evaluate.clips)


def setting_label(changes: Mapping[str, Any], task: str) -> str:
    """Return changed parameters as "clips=2, frames_per_clip=2", or "base" without any."""
    if not changes:
        return BASE
    return ", ".join(f"{short_name(name, task)}={_word(value)}" for name, value in changes.items())


def fingerprint(point: Point, plan: Plan, identity: str) -> str:
    """Return a digest of everything that decides a point's results.

    Args:
        identity: of the code and the data.
    """
    parts = {
        "params": point.setting.params,
        "seed": point.seed,
        "clips": plan.clips,
        "aggregations": plan.grid.aggregations,
        "identity": identity,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _overrides(changes: Mapping[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in changes.items()]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _slug(label: str) -> str:
    """Return a label with only the characters of a git reference, shortened with a digest."""
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", label.replace("=", "-")).strip("-")
    if len(slug) <= LONGEST_SLUG:
        return slug
    return f"{slug[: LONGEST_SLUG - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
