"""What is compared: the predictions of one evaluation with its parameters, origin and cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from clipbert.durations import format_duration

# Cost of a model, by its key in `Source.cost`, as (words, unit); in the order in which they are shown.
COSTS = {
    "seconds": ("training time", "s"),
    "flops": ("training compute", "FLOP"),
    "joules": ("training energy", "J"),
    "parameters": ("parameters", ""),
    "ms_per_item": ("evaluation per item", "ms"),
}
SEED = "seed"  # the parameter by which `--group-by seed` groups


@dataclass(frozen=True)
class Source:
    """An evaluated model.

    Attributes:
        name: as the user gave it.
        kind: "workspace", "DVC experiment", "git revision", "MLflow run" or "model version".
        reference: what identifies it: a commit, the id of a run, or the name and version of a registered model.
        task: its task.
        items: the predictions, one row per test item, indexed by `item_id`.
        conditions: the settings of the evaluation (`evaluation.conditions`).
        params: the parameters of the training, flat.
        origin: data, code and device of the training.
        cost: values by the keys of `COSTS`; a missing one was not recorded.
    """

    name: str
    kind: str
    reference: str
    task: str
    items: pd.DataFrame
    conditions: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What it is and where it was found."""
        return f"{self.kind} {self.reference}".strip()

    @property
    def settings(self) -> dict[str, str]:
        """The parameters of the training and the settings of the evaluation, which may be others than its params."""
        evaluated = {
            name if name.startswith("frames.") else f"evaluated with {name}": str(value)
            for name, value in self.conditions.items()
            if name not in ("test_items", "scoring")
        }
        return {**self.params, **evaluated}


def format_cost(key: str, value: float | None) -> str:
    """Return a cost for a reader: "2 min 27 s", "1.3 PFLOP", "12.5 kJ", "4.7 M"; "not recorded" without a value."""
    if value is None:
        return "not recorded"
    if key == "seconds":
        return format_duration(value)
    unit = COSTS[key][1]
    if key == "ms_per_item":
        return f"{value / 1000:.3g} s" if value >= 1000 else f"{value:.3g} {unit}"
    for scale, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def shorten(value: str) -> str:
    """Return a value for a reader: of a hash its first 12 characters."""
    return value[:12] if len(value) >= 32 and value.removesuffix(".dir").isalnum() else value


def differing_settings(sources: list[Source], ignored: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return the settings and the origin in which sources differ: name to the value of each, "not recorded" without.

    Args:
        ignored: names of parameters to leave out.
    """
    found: dict[str, list[str]] = {}
    tables = [{**source.settings, **source.origin} for source in sources]
    for name in sorted({name for table in tables for name in table}):
        values = [str(table.get(name, "not recorded")) for table in tables]
        if name not in ignored and len(set(values)) > 1:
            found[name] = values
    return found
