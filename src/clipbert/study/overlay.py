"""The recipe of a study: its cheapest setting within one standard error of the best, as an overlay on params.yaml."""

import json
from pathlib import Path
from typing import Any

from clipbert.config.recipes import overrides_of
from clipbert.config.yaml_io import dump_yaml, parse_yaml
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_write
from clipbert.project import Project
from clipbert.study.analysis import Row
from clipbert.study.plan import Plan

MARK = "# Chosen by clipbert study"  # begins the file, so that a study replaces only its own recipes
SUFFIX = "_study"


def write_overlay(project: Project, plan: Plan, choice: Row) -> Path:
    """Write recipes/NAME_study.yaml and return its path; `clipbert recipe NAME_study` and RECIPE= take it.

    Raises:
        ClipBertError: a recipe of this name exists that no study wrote, or a value cannot be part of a recipe.
    """
    path = project.recipes / f"{plan.grid.name}{SUFFIX}.yaml"
    if path.exists() and not path.read_text(encoding="utf-8").startswith(MARK):
        raise ClipBertError(
            f"{path}: exists, and no study wrote it. Rename it, or rename the grid {plan.grid.path.name}."
        )
    setting = next(one for one in plan.settings if one.label == choice.label)
    values: dict[str, Any] = {}
    given = [*setting.overrides, f"evaluate.clips={choice.clips}"]
    if not choice.own:
        given.append(f"model.score_aggregation={json.dumps(choice.aggregation)}")
    for override in given:
        name, _, text = override.partition("=")
        place = values
        *sections, last = name.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = parse_yaml(text)
    first = f"{MARK} from {plan.grid.path.name}: the cheapest within one standard error of the best ({choice.name})"
    with atomic_write(path, "w") as file:
        file.write(f"{first}\n{dump_yaml(values)}")
    overrides_of(project.recipes, path.stem)
    return path
