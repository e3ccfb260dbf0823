"""Recipes: overlays on params.yaml, and their conversion to arguments of `dvc exp run`."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from clipbert.config.load import load_params
from clipbert.config.yaml_io import leaves, parse_yaml
from clipbert.errors import ClipBertError

# Characters that need no quoting in a shell or in Hydra's grammar.
PLAIN = re.compile(r"[A-Za-z0-9_.:/-]+")


def list_recipes(folder: Path) -> dict[str, str]:
    """Return {name: the comment in its first line} of the recipes in `folder`.

    Raises:
        ClipBertError: the folder has no recipes.
    """
    found = sorted(folder.glob("*.yaml"))
    if not found:
        raise ClipBertError(f"{folder}: no recipes here (*.yaml). Run the command in the project folder.")
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in found}


def dvc_arguments(folder: Path, name: str, params: Path) -> list[str]:
    """Return a recipe as arguments of `dvc exp run`: -S KEY=VALUE for each parameter, -S +KEY=VALUE for new ones.

    Raises:
        ClipBertError: the recipe does not exist, is not valid YAML, or gives invalid parameters on top of `params`.
    """
    given = _words(folder, name)
    load_params(params, [f"{key}={value}" for key, value in given.items()], source=f"{folder / name}.yaml:")
    there = {key for key, _ in leaves(_read(params))}
    return [word for key, value in given.items() for word in ("-S", f"{'' if key in there else '+'}{key}={value}")]


def overrides_of(folder: Path, name: str) -> list[str]:
    """Return a recipe as overrides KEY=VALUE of `load_params`.

    Raises:
        ClipBertError: the recipe does not exist, or is not valid YAML.
    """
    return [f"{key}={value}" for key, value in _words(folder, name).items()]


def _words(folder: Path, name: str) -> dict[str, str]:
    """Return {dotted name: value in a form that Hydra and YAML both read} of a recipe."""
    recipes = list_recipes(folder)
    if name not in recipes:
        raise ClipBertError(f"{name}: no such recipe in {folder}; expected one of {', '.join(recipes)}.")
    path = folder / f"{name}.yaml"
    return {key: _word(path, key, value) for key, value in leaves(_read(path))}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClipBertError(f"{path}: cannot be read ({error}); expected a UTF-8 YAML file.") from error
    if not isinstance(values, dict):
        raise ClipBertError(f"{path}: expected sections such as `train:`, found {type(values).__name__}.")
    return values


def _word(path: Path, key: str, value: Any) -> str:
    """Return a value in a form that Hydra and YAML both read, without spaces."""
    if isinstance(value, list):
        return f"[{','.join(_word(path, key, item) for item in value)}]"
    if (isinstance(value, str) and not PLAIN.fullmatch(value)) or (isinstance(value, dict) and value):
        raise ClipBertError(
            f"{path}: {key} = {value!r} cannot be passed to `dvc exp run -S`: expected letters, digits, _ . : / -. "
            f"Write it into params.yaml instead."
        )
    if isinstance(value, str):
        return value if parse_yaml(value) == value else f'"{value}"'
    return json.dumps(value)
