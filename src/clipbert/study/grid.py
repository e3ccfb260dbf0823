"""Grid of a study: what is trained, along which axes the parameters change, and how each training is evaluated."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from clipbert.config.budget import Budget
from clipbert.config.recipes import list_recipes
from clipbert.config.tasks import check_task
from clipbert.config.yaml_io import leaves, parse_yaml_mapping, read_yaml_text
from clipbert.errors import ClipBertError

FIELDS = ("task", "recipe", "budget", "seeds", "params", "axes", "evaluate")
REQUIRED = ("task", "budget", "seeds", "axes")
AGGREGATIONS = ("lse", "mean", "max")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# Parameters that the study itself sets, with what sets them.
RESERVED = {
    "seed": "`seeds`",
    "train.budget": "`budget`",
    "tasks_run": "`task`",
    "pretrain_run": "params.yaml",
    "evaluate.clips": "`evaluate.clips`, which trains nothing again",
}
MOST_CLIPS = 64


@dataclass(frozen=True)
class AxisSetting:
    """A setting of an axis: the parameters that it changes, by dotted path; the label is None for crossed values."""

    label: str | None
    changes: dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """One question of the study: settings that are compared with each other and with the base."""

    name: str
    settings: tuple[AxisSetting, ...]


@dataclass(frozen=True)
class Grid:
    """Content of a grid file.

    Attributes:
        path: of the file; its stem is the name of the study.
        budget: `train.budget` of every training.
        recipe: name of the recipe below `params`; None for none.
        params: changes of every training to params.yaml and the recipe, by dotted path.
        clips: numbers of clips in evaluation; empty for `evaluate.clips` of params.yaml alone.
        aggregations: score aggregations in evaluation; empty for the model's own alone.
    """

    path: Path
    task: str
    budget: Budget
    seeds: tuple[int, ...]
    axes: tuple[Axis, ...]
    recipe: str | None = None
    params: dict[str, Any] | None = None
    clips: tuple[int, ...] = ()
    aggregations: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the study, the prefix of its experiments."""
        return self.path.stem

    @property
    def budget_text(self) -> str:
        """The budget without a space, as recipes and `dvc exp run -S` accept it: `120steps`."""
        return f"{self.budget.amount:g}{self.budget.unit}"


def read_grid(path: Path, recipes: Path) -> Grid:
    """Read a grid file.

    Args:
        recipes: the folder of the recipes.

    Raises:
        ClipBertError: the file cannot be read, or a field is missing, unknown or has another form than expected. The
            values of parameters are not checked here.
    """
    values = _read(path)
    if unknown := [str(key) for key in values if key not in FIELDS]:
        raise ClipBertError(f"{path}: {unknown[0]}: unknown field; expected {', '.join(FIELDS)}.")
    if missing := [key for key in REQUIRED if key not in values]:
        raise ClipBertError(f"{path}: {missing[0]}: missing; a grid needs {', '.join(REQUIRED)}.")
    if not NAME.fullmatch(path.stem):
        raise ClipBertError(
            f"{path}: the file's name is the name of the study and of its experiments: expected letters, digits, _ and "
            f"- before .yaml, found {path.stem!r}. Rename the file."
        )
    try:
        task = check_task(str(values["task"]))
    except ClipBertError as error:
        raise ClipBertError(f"{path}: task: {error}") from error
    recipe = values.get("recipe")
    if recipe is not None and (not isinstance(recipe, str) or recipe not in list_recipes(recipes)):
        raise ClipBertError(f"{path}: recipe = {recipe!r}: expected one of {', '.join(list_recipes(recipes))} or null.")
    clips, aggregations = _evaluations(path, values.get("evaluate"))
    return Grid(
        path=path,
        task=task,
        budget=_budget(path, values["budget"]),
        seeds=_seeds(path, values["seeds"]),
        axes=_axes(path, values["axes"]),
        recipe=recipe,
        params=_changes(path, "params", values.get("params") or {}),
        clips=clips,
        aggregations=aggregations,
    )


def _read(path: Path) -> dict[str, Any]:
    missing = (
        "no such grid file. Run the command in the project folder, or name the file with --grid; recipes/study/ has "
        "examples."
    )
    return parse_yaml_mapping(read_yaml_text(path, path, missing), path, "fields such as `axes:`")


def _budget(path: Path, value: Any) -> Budget:
    try:
        return Budget.parse(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ClipBertError(f"{path}: budget = {value!r}: expected {error}, for example 120 steps or 5 min.") from error


def _seeds(path: Path, value: Any) -> tuple[int, ...]:
    entries = value if isinstance(value, list) else []
    if not entries or not all(_is_integer(one) and 0 <= one < 2**32 for one in entries):
        raise ClipBertError(f"{path}: seeds = {value!r}: expected a list of integers of at least 0, as [0, 1, 2].")
    if len(set(entries)) < len(entries):
        raise ClipBertError(f"{path}: seeds = {value!r}: a seed occurs twice; name each seed once.")
    return tuple(entries)


def _axes(path: Path, value: Any) -> tuple[Axis, ...]:
    if not isinstance(value, dict) or not value:
        raise ClipBertError(
            f"{path}: axes: expected named axes such as `image size: {{model.image_size: [64, 96]}}`, found {value!r}."
        )
    return tuple(Axis(str(name), _settings(path, f"axes.{name}", content)) for name, content in value.items())


def _settings(path: Path, where: str, content: Any) -> tuple[AxisSetting, ...]:
    """Return the settings of an axis: crossed lists of values by parameter, or parameters by label."""
    if not isinstance(content, dict) or not content:
        raise ClipBertError(
            f"{path}: {where}: expected parameters with lists of values (`model.clips: [1, 2]`) or labels with "
            f"parameters (`frozen: {{train.freeze_vision: true}}`), found {content!r}."
        )
    if all(isinstance(inner, dict) for inner in content.values()):
        return tuple(
            AxisSetting(str(label), _changes(path, f"{where}.{label}", inner)) for label, inner in content.items()
        )
    for name, entries in content.items():
        if not isinstance(entries, list) or not entries:
            raise ClipBertError(
                f"{path}: {where}.{name} = {entries!r}: expected a list of values, as [1, 2]; an axis has either lists "
                "of values or labels with parameters."
            )
        _check_parameter(path, where, str(name))
        if len({json.dumps(entry, sort_keys=True, default=str) for entry in entries}) < len(entries):
            raise ClipBertError(f"{path}: {where}.{name} = {entries!r}: a value occurs twice; name each value once.")
    names = [str(name) for name in content]
    return tuple(AxisSetting(None, dict(zip(names, values, strict=True))) for values in product(*content.values()))


def _changes(path: Path, where: str, values: Any) -> dict[str, Any]:
    """Return parameters by dotted path, from nested sections or dotted names."""
    if not isinstance(values, dict):
        raise ClipBertError(
            f"{path}: {where}: expected parameters such as train.freeze_vision: true, found {values!r}."
        )
    found = {}
    for key, value in values.items():
        for name, leaf in leaves({str(key): value}):
            _check_parameter(path, where, name)
            found[name] = leaf
    return found


def _check_parameter(path: Path, where: str, name: str) -> None:
    if name in RESERVED:
        raise ClipBertError(f"{path}: {where}.{name}: every point has the same value; {RESERVED[name]} sets it.")
    if name.startswith("release."):
        raise ClipBertError(f"{path}: {where}.{name}: a study trains and evaluates; it registers nothing.")


def _evaluations(path: Path, value: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    content: Mapping[Any, Any] = value if isinstance(value, dict) else {}
    known = ("clips", "score_aggregation")
    if (value is not None and not isinstance(value, dict)) or [key for key in content if key not in known]:
        raise ClipBertError(f"{path}: evaluate: expected the lists clips and score_aggregation, found {value!r}.")
    clips, aggregations = content.get("clips", []), content.get("score_aggregation", [])
    if not isinstance(clips, list) or not all(_is_integer(one) and 1 <= one <= MOST_CLIPS for one in clips):
        raise ClipBertError(
            f"{path}: evaluate.clips = {clips!r}: expected a list of integers from 1 to {MOST_CLIPS}, as [1, 2, 4]."
        )
    if not isinstance(aggregations, list) or not all(one in AGGREGATIONS for one in aggregations):
        raise ClipBertError(
            f"{path}: evaluate.score_aggregation = {aggregations!r}: expected a list of {', '.join(AGGREGATIONS)}."
        )
    for name, entries in (("clips", clips), ("score_aggregation", aggregations)):
        if len(set(entries)) < len(entries):
            raise ClipBertError(f"{path}: evaluate.{name} = {entries!r}: a value occurs twice; name each value once.")
    return tuple(sorted(clips)), tuple(aggregations)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
