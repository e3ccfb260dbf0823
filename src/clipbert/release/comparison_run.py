"""Log of a comparison as an MLflow run with its numbers, its page and its JSON."""

import json
import tempfile
import time
from pathlib import Path

from mlflow.entities import Metric

from clipbert.evaluation.comparison.export import to_json, to_metrics
from clipbert.evaluation.comparison.page import write_page
from clipbert.evaluation.comparison.result import Comparison
from clipbert.files.atomic import write_json
from clipbert.project import Project
from clipbert.release.connection import open_experiment
from clipbert.release.delivery import open_store_and_deliver
from clipbert.release.provenance import provenance
from clipbert.release.runs import create_run
from clipbert.release.store import store_errors

EXPERIMENT = "comparisons"  # after release.name: apart from the experiments of trainings
MAX_NAME = 250  # characters of a run's name


def log_comparison(project: Project, release_name: str, comparison: Comparison, items: int) -> tuple[str, str]:
    """Log a comparison in the experiment NAME-comparisons (`release.name`); return the ids of the run and experiment.

    The run has the metrics of `to_metrics`, the findings as its description, and the files comparison.html and
    comparison.json.

    Args:
        items: how many items won and lost of each pair the page shows.

    Raises:
        ClipBertError: the store cannot be used.
    """
    store = open_store_and_deliver(project.root, release_name)
    experiment_id = open_experiment(store, EXPERIMENT)
    sides = comparison.sides
    name = f"{comparison.task}: {' against '.join(side.name for side in sides)}"[:MAX_NAME]
    compared = json.dumps([[source.place for source in side.sources] for side in sides])
    tags = {
        **provenance(project.root),
        "clipbert.task": comparison.task,
        "clipbert.compared": compared,
        "mlflow.note.content": "\n".join(f"- {pair.finding}" for pair in comparison.pairs),
    }
    now = int(time.time() * 1000)
    with store_errors(store.uri, "cannot store the comparison"):
        params = {f"model.{number}": side.name for number, side in enumerate(sides, start=1)}
        run_id = str(create_run(store, experiment_id, name, params, tags).run_id)
        metrics = [Metric(key, value, now, 0) for key, value in to_metrics(comparison).items()]
        store.client.log_batch(run_id, metrics=metrics)
        with tempfile.TemporaryDirectory() as scratch:
            page, values = Path(scratch, "comparison.html"), Path(scratch, "comparison.json")
            write_page(comparison, project.frames, page, items)
            write_json(values, to_json(comparison))
            for path in (page, values):
                store.client.log_artifact(run_id, str(path))
        store.client.set_terminated(run_id, "FINISHED")
    return run_id, experiment_id
