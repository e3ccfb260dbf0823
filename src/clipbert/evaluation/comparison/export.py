"""A comparison as JSON, and as flat metrics for DVC and MLflow."""

import math
from dataclasses import asdict
from typing import Any

import regex

from clipbert.evaluation.comparison.effects import Effect, SeedEffect
from clipbert.evaluation.comparison.grouping import Side
from clipbert.evaluation.comparison.result import Comparison, Pair
from clipbert.evaluation.comparison.source import COSTS, differing_settings

NOT_IN_A_NAME = regex.compile(r"[^\p{L}\p{N}_.-]+")  # MLflow and DVC read the names of metrics


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything that a comparison found as values that JSON has; a number that is not finite is None."""
    sides = comparison.sides
    return {
        "task": comparison.task,
        "items": comparison.items,
        "videos": comparison.videos,
        "models": [
            {
                "name": side.name,
                "trainings": [
                    {
                        "name": source.name,
                        "kind": source.kind,
                        "reference": source.reference,
                        "conditions": dict(source.conditions),
                        "cost": {key: source.cost.get(key) for key in COSTS},
                        "origin": dict(source.origin),
                    }
                    for source in side.sources
                ],
            }
            for side in sides
        ],
        "comparisons": [_pair(pair, sides) for pair in comparison.pairs],
        "differing": differing_settings(comparison.sources),
    }


def to_metrics(comparison: Comparison) -> dict[str, float]:
    """Return the comparison as flat metrics, `TASK/B_vs_A/METRIC_difference` and so on; finite numbers alone."""
    found: dict[str, float] = {}
    for pair in comparison.pairs:
        prefix = f"{comparison.task}/{pair_name(comparison.sides[pair.a], comparison.sides[pair.b])}"
        for shown in comparison.headlines:
            effect = pair.effects[shown.metric]
            values = {
                "difference": effect.difference,
                "difference_ci_low": effect.low,
                "difference_ci_high": effect.high,
            }
            if isinstance(effect, SeedEffect):
                values |= {"error_of_items": effect.items_error, "error_of_seeds": effect.seeds_error}
            found |= {f"{prefix}/{shown.metric}_{name}": round(value, 4) for name, value in values.items()}
        found |= {
            f"{prefix}/p_value": pair.test.p_value,
            f"{prefix}/p_value_holm": pair.corrected,
            f"{prefix}/won": float(pair.test.won),
            f"{prefix}/lost": float(pair.test.lost),
            f"{prefix}/tied": float(pair.test.tied),
        }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def pair_name(a: Side, b: Side) -> str:
    """Return the name of a pair in metrics, with underscores for characters that a metric's name cannot have."""
    names = [str(NOT_IN_A_NAME.sub("_", side.name)).strip("_") for side in (b, a)]
    return "_vs_".join(names)


def _pair(pair: Pair, sides: list[Side]) -> dict[str, Any]:
    return {
        "a": sides[pair.a].name,
        "b": sides[pair.b].name,
        "finding": pair.finding,
        "kind": pair.kind,
        "effects": {name: _effect(effect) for name, effect in pair.effects.items()},
        "test": asdict(pair.test),
        "p_value_holm": pair.corrected,
        "won": pair.won,
        "lost": pair.lost,
        "same_predictions": pair.same,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    values = {**asdict(effect), "difference": effect.difference}
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(some) for some in value]
    return value if math.isfinite(value) else None
