"""Write a recipe into params.yaml, whose comments and order stay. `RECIPE=small make run` does it first:

python -m scripts.apply_recipe small
"""

import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import BaseRepresenter

from clipbert.config.recipes import dvc_arguments
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_write


def main(name: str) -> int:
    """Apply the recipe `name` to the project of the current folder; return the exit code."""
    root = Path.cwd()
    try:
        changed = apply_recipe(root, name)
        print(f"recipe {name}: {changed} parameters of params.yaml changed")
    except ClipBertError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 2
    return 0


def apply_recipe(root: Path, name: str) -> int:
    """Write the values of a recipe into params.yaml; return how many of them it changed.

    Raises:
        ClipBertError: the recipe does not exist, or params.yaml with its values is invalid.
    """
    path = root / "params.yaml"
    dvc_arguments(root / "recipes", name, path)  # checks the recipe on top of the file
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.representer.add_representer(type(None), _represent_null)
    values = yaml.load(path.read_text(encoding="utf-8"))
    # loaded by the same parser, numbers and lists keep the form that they have in the recipe
    changed = _merge(values, yaml.load((root / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")))
    if changed:
        with atomic_write(path, "w") as file:
            yaml.dump(values, file)
    return changed


def _represent_null(representer: BaseRepresenter, value: None) -> ScalarNode:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _merge(values: dict[str, Any], overlay: dict[str, Any]) -> int:
    """Set the values of `overlay` in nested sections; return the number of values that changed."""
    changed = 0
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            changed += _merge(values[key], value)
        elif key not in values or values[key] != value:
            values[key] = value
            changed += 1
    return changed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
