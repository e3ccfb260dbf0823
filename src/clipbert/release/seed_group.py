"""Evaluated trainings of one configuration with different seeds, as MLflow has them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException

from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.source import SEED
from clipbert.evaluation.conditions import ATTRIBUTE, differences
from clipbert.evaluation.item_checks import read_predictions
from clipbert.release.store import Store

DATA = "clipbert.data_digest"
MAX_RUNS = 1000


def seed_group(
    store: Store, task: str, run: Any, items: pd.DataFrame, conditions: Mapping[str, Any]
) -> dict[str, pd.DataFrame]:
    """Return the predictions of each seed of a run's configuration, those of the run first.

    A run belongs to it if all its parameters without the seed, its data, its test items and the conditions of its
    evaluation are equal. Of several runs with one seed, the newest counts.

    Args:
        run: MLflow's run.
        items: the predictions of the run's registered version, indexed by `item_id`.
        conditions: of their evaluation.
    """
    own = run.data.params.get(SEED)
    if own is None:
        return {}
    found = {own: items}
    for other in store.client.search_runs([run.info.experiment_id], max_results=MAX_RUNS):
        seed = other.data.params.get(SEED)
        if seed is None or seed in found or not _same_configuration(run, other):
            continue
        predictions = _predictions(store, task, other.info.run_id)
        if predictions is None or set(predictions.index) != set(items.index):
            continue
        if differences(task, conditions, predictions.attrs.get(ATTRIBUTE, {})):
            continue
        found[seed] = predictions.loc[items.index]
    return found


def _same_configuration(run: Any, other: Any) -> bool:
    params = [{name: value for name, value in one.data.params.items() if name != SEED} for one in (run, other)]
    return params[0] == params[1] and run.data.tags.get(DATA) == other.data.tags.get(DATA)


def _predictions(store: Store, task: str, run_id: str) -> pd.DataFrame | None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = Path(store.client.download_artifacts(run_id, f"evaluation/{task}.parquet", scratch))
            return read_predictions(path, task)
        except (MlflowException, OSError, ClipBertError):
            return None
