"""Names of MLflow runs: the DVC experiment, the task, and the parameters that differ from the defaults."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from clipbert.config.fields import short_name
from clipbert.config.training import RUNTIME_ONLY
from clipbert.release.provenance import read_committed
from clipbert.release.runs import flatten

EXPERIMENT_TAG = "clipbert.dvc_experiment"
MOST_CHANGES = 4
LONGEST_VALUE, LONGEST_NAME = 24, 200
# The order in which changes are shown; a parameter of another section comes last.
SECTIONS = ("model.", "train.", "tasks.", "frames.", "seed", "evaluate.")
IGNORED = ("release.", *(f"train.{name}" for name in RUNTIME_ONLY))


def dvc_experiment() -> str | None:
    """Return the name of the DVC experiment in which this process runs; None outside of `dvc exp run`."""
    return os.environ.get("DVC_EXP_NAME") or None


def run_name(root: Path, task: str, params: Mapping[str, str], defaults: Mapping[str, str]) -> str:
    """Return the name of a new run: "slower: retrieval (lr=0.0005, negatives=1)".

    Without an experiment the time takes its place: "retrieval 2026-11-28 12:00:00 (lr=0.0005)". Parameters that differ
    from the committed params.yaml come first, because an experiment changed them.

    Args:
        root: the project's folder.
        params: the flat parameters of the run.
        defaults: the flat defaults of parameters.
    """
    experiment = dvc_experiment()
    title = f"{experiment}: {task}" if experiment else f"{task} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    changes = changed_parameters(root, params, defaults)
    shown = [f"{short_name(name, task)}={_cut(value)}" for name, value in changes.items()]
    if len(shown) > MOST_CHANGES:
        shown = [*shown[:MOST_CHANGES], f"+{len(shown) - MOST_CHANGES}"]
    return (f"{title} ({', '.join(shown)})" if shown else title)[:LONGEST_NAME]


def changed_parameters(root: Path, params: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that differ from the defaults, those of an experiment first."""
    committed = _committed(root)
    changes = {
        name: value for name, value in params.items() if value != defaults.get(name) and not name.startswith(IGNORED)
    }

    def order(name: str) -> tuple[bool, int, str]:
        section = next((n for n, prefix in enumerate(SECTIONS) if name.startswith(prefix)), len(SECTIONS))
        return committed.get(name) == changes[name], section, name

    return {name: changes[name] for name in sorted(changes, key=order)}


def _committed(root: Path) -> dict[str, str]:
    """Return the flat parameters of the commit that is checked out; empty without one."""
    try:
        values = yaml.safe_load(read_committed(root, "params.yaml") or "")
    except yaml.YAMLError:
        return {}
    return flatten(values) if isinstance(values, dict) else {}


def _cut(value: str) -> str:
    value = "null" if value == "None" else value
    return value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE - 3]}..."
