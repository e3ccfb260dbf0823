"""The result of a study as JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipbert.files.atomic import write_json
from clipbert.study.analysis import Analysis, Row
from clipbert.study.plan import Plan

FILE = "study.json"


def to_json(plan: Plan, commit: str, analysis: Analysis) -> dict[str, Any]:
    """Return the settings, the axes and the choice of a study."""
    grid = plan.grid
    return {
        "study": grid.name,
        "task": grid.task,
        "metric": analysis.metric,
        "split": "validation",
        "budget": grid.budget_text,
        "seeds": list(grid.seeds),
        "commit": commit,
        "cost": analysis.cost,
        "settings": [{"name": row.name, **_plain(row)} for row in analysis.rows],
        "axes": [
            {
                "name": axis.name,
                "finding": axis.finding,
                "rows": [
                    {
                        "label": one.label,
                        "setting": one.row.name,
                        "effect": None if one.effect is None else _effect(one.effect),
                        "p_value": one.p_value,
                    }
                    for one in axis.rows
                ],
            }
            for axis in analysis.axes
        ],
        "best": analysis.best.name,
        "choice": analysis.choice.name,
        "missing": list(analysis.missing),
    }


def write_result(plan: Plan, commit: str, analysis: Analysis, folder: Path) -> Path:
    """Write study.json into the study's folder and return its path."""
    path = folder / FILE
    write_json(path, to_json(plan, commit, analysis), sort_keys=False)
    return path


def _effect(effect: Any) -> dict[str, float]:
    return {"difference": effect.difference, "low": effect.low, "high": effect.high}


def _plain(row: Row) -> dict[str, Any]:
    values = asdict(row)
    # NaN is not JSON
    deviation = values["mean"]["seed_deviation"]
    values["mean"]["seed_deviation"] = None if deviation != deviation else deviation
    return values
