"""MLflow runs of a study: one parent run, under which the runs of its trainings are nested."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, RunTag

from clipbert.release.connection import open_experiment, open_store
from clipbert.release.provenance import process_tags, provenance
from clipbert.release.runs import active_run, create_run
from clipbert.release.store import DEFAULT_NAME, Store, store_errors

PARENT = "mlflow.parentRunId"  # the tag by which MLflow's pages nest runs
STUDY_TAG = "clipbert.study"


class StudyRun:
    """The parent run of a study, in the experiment of its task."""

    def __init__(self, store: Store, run_id: str, name: str) -> None:
        """Args: `name` of the study."""
        self.store, self.run_id, self.name = store, run_id, name

    @classmethod
    def open(
        cls,
        root: Path,
        task: str,
        name: str,
        params: Mapping[str, Any],
        release_name: str = DEFAULT_NAME,
        run_id: str | None = None,
    ) -> "StudyRun":
        """Create the run, or continue the run `run_id` if the store has it.

        Raises:
            ClipBertError: the store cannot be used.
        """
        store = open_store(root, release_name)
        experiment_id = open_experiment(store, task)
        with store_errors(store.uri, "cannot store the study"):
            info = active_run(store, run_id)
            if info is None:
                tags = {**provenance(root), "clipbert.task": task, STUDY_TAG: name}
                texts = {key: str(value) for key, value in params.items()}
                info = create_run(store, experiment_id, f"study {name}: {task}", texts, tags)
            else:
                owner = [RunTag(key, value) for key, value in process_tags().items()]
                store.client.log_batch(info.run_id, tags=owner)
                store.client.update_run(info.run_id, status="RUNNING")
        return cls(store, str(info.run_id), name)

    def add_point(self, run_id: str | None, metrics: Mapping[str, float]) -> None:
        """Nest the run of a training under the study and log its metrics; a run that the store lacks is left out."""
        with store_errors(self.store.uri, "cannot store the study"):
            if active_run(self.store, run_id) is None:
                return
            tags = [RunTag(PARENT, self.run_id), RunTag(STUDY_TAG, self.name)]
            self.store.client.log_batch(run_id, metrics=_metrics(metrics), tags=tags)

    def finish(self, status: str, metrics: Mapping[str, float], description: str, files: Iterable[Path]) -> None:
        """End the run with the study's result.

        Args:
            status: FINISHED, FAILED or KILLED.
            description: the text that MLflow shows above the run.
            files: logged under study/.
        """
        with store_errors(self.store.uri, "cannot store the study"):
            tags = [RunTag("mlflow.note.content", description)]
            self.store.client.log_batch(self.run_id, metrics=_metrics(metrics), tags=tags)
            for path in files:
                self.store.client.log_artifact(self.run_id, str(path), "study")
            self.store.client.set_terminated(self.run_id, status)


def _metrics(values: Mapping[str, float]) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, 0) for name, value in values.items()]
