"""Find the models that `clipbert compare` compares: experiments, revisions, MLflow runs, versions, the workspace."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from clipbert.config.tasks import check_task, task_names
from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.source import Source
from clipbert.evaluation.conditions import ATTRIBUTE
from clipbert.evaluation.item_checks import read_predictions
from clipbert.files.signed_json import read_signed_json
from clipbert.project import Project
from clipbert.release.aliases import aliases
from clipbert.release.backfill import on_todays_data
from clipbert.release.connection import open_store
from clipbert.release.gate import stored_predictions
from clipbert.release.recorded_cost import cost_of_run, recorded_cost
from clipbert.release.revisions import SHORT, Revisions
from clipbert.release.runs import RUN_DESCRIPTION, active_run
from clipbert.release.store import EMBEDDED, Store, embedded_uri, is_absent, store_errors, tracking_uri

WORKSPACE = "workspace"
RUN_ID = re.compile(r"[0-9a-f]{32}")
EVALUATION = "evaluation"  # folder of a run's artifacts with its last evaluation
ORIGIN = {"data": "data_digest", "git commit": "git_commit", "device": "device"}
TRAINING_COSTS = {
    "seconds": ("seconds", 1),
    "tflop": ("flops", 1e12),
    "joules": ("joules", 1),
    "parameters": ("parameters", 1),
}
PREFIXES = {"exp": "DVC experiment", "git": "git revision", "run": "MLflow run"}
FORMS = (
    "`workspace`, a DVC experiment (`exp:NAME`), a git revision (`git:NAME`), the name or id of an MLflow run "
    "(`run:NAME`), or a registered version (`models:/NAME/3`, `models:/NAME@champion`, `TASK/3`, `TASK@champion`, "
    "`champion` with --task)"
)


@dataclass(frozen=True)
class Match:
    """What a name stands for.

    Attributes:
        name: as the user gave it.
        kind, reference: as in `Source`.
        tasks: of which it has predictions.
        commit: of a revision.
        run: MLflow's run.
        version: MLflow's model version.
    """

    name: str
    kind: str
    reference: str
    tasks: tuple[str, ...]
    commit: str = ""
    outputs: Mapping[str, str | None] = field(default_factory=dict)
    run: Any = None
    version: Any = None


class ModelFinder:
    """Finds models by name and reads their predictions, parameters and cost."""

    def __init__(self, project: Project, release_name: str, task: str | None = None) -> None:
        """Args: `release_name`: release.name; `task`: the only task to consider."""
        self.project, self.release_name = project, release_name
        self.task = None if task is None else check_task(task)
        self.revisions = Revisions(project.root)
        self.notes: list[str] = []

    def load(self, names: Sequence[str]) -> list[Source]:
        """Return the models that names stand for, all of one task.

        Raises:
            ClipBertError: no model or several models have a name, a model has no predictions, the models are
                of different tasks, or several tasks fit.
        """
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ClipBertError(f"{repeated[0]} is named twice. Name each model once.")
        matches = [self.find(name) for name in names]
        task = self._task(matches)
        with tempfile.TemporaryDirectory() as scratch:
            sources = [self._read(match, task, Path(scratch)) for match in matches]
        return on_todays_data(self.project, sources, [match.version for match in matches])

    def find(self, name: str) -> Match:
        """Return what a name stands for.

        Names are looked up in this order, and the first kind that knows a name wins: `workspace`, versions
        (`models:/...`, NAME/VERSION and NAME@ALIAS), DVC experiments and git revisions, an alias alone, MLflow runs.
        The prefixes `exp:`, `git:` and `run:` choose a kind.

        Raises:
            ClipBertError: nothing has this name, or several experiments, revisions or runs have.
        """
        prefix, _, rest = name.partition(":")
        if prefix in PREFIXES and rest:
            kind = PREFIXES[prefix]
            found = self._run(name, rest) if kind == "MLflow run" else self._revision(name, rest, kind)
        else:
            found = (
                self._workspace(name)
                or self._version(name)
                or self._revision(name, name)
                or self._alias(name)
                or self._run(name, name)
            )
        if found is None:
            raise ClipBertError(
                f"{name}: no model has this name. Expected {FORMS}. List them with `dvc exp list`, `git log` and "
                f"`make ui`.{self._store_problem()}"
            )
        return found

    def _task(self, matches: Sequence[Match]) -> str:
        """Return the task of all matches."""
        if self.task is not None:
            for match in matches:
                if self.task not in match.tasks:
                    known = ", ".join(match.tasks) or "no task"
                    raise ClipBertError(
                        f"{match.name} ({match.kind} {match.reference}) has no predictions of {self.task}, only of "
                        f"{known}. Evaluate it: `clipbert evaluate {self.task}`, or name another --task."
                    )
            return self.task
        shared = [task for task in matches[0].tasks if all(task in match.tasks for match in matches)]
        if len(shared) > 1 and (changed := [task for task in shared if self._differs(task, matches)]):
            shared = changed
        if len(shared) > 1:
            raise ClipBertError(
                f"The models have predictions of several tasks: {', '.join(shared)}. Choose one, as --task {shared[0]}."
            )
        if not shared:
            lines = "\n".join(f"  {match.name}: {', '.join(match.tasks) or 'no predictions'}" for match in matches)
            raise ClipBertError(f"Only models of one task can be compared. Their tasks are:\n{lines}")
        return shared[0]

    def _differs(self, task: str, matches: Sequence[Match]) -> bool:
        """Return whether the predictions of a task may differ: experiments change one task and keep the others."""
        path = self._path(self.project.predictions(task))
        digests = [match.outputs.get(path) for match in matches]
        return None in digests or len(set(digests)) > 1

    def _workspace(self, name: str) -> Match | None:
        if name != WORKSPACE:
            return None
        tasks = tuple(task for task in task_names() if self.project.predictions(task).exists())
        if not tasks:
            raise ClipBertError(
                f"workspace: there are no predictions in {self.project.predictions('TASK').parent}. Evaluate a model: "
                "`clipbert evaluate TASK`."
            )
        return Match(name, WORKSPACE, "", tasks)

    def _revision(self, name: str, searched: str, kind: str | None = None) -> Match | None:
        found = self.revisions.find(searched, kind)
        if len(found) > 1:
            listed = ", ".join(f"{some.kind} {some.commit[:SHORT]}" for some in found)
            raise ClipBertError(
                f"{name} stands for several commits: {listed}. Choose one, as `git:{found[0].commit[:SHORT]}`"
                f"{f' or `exp:{searched}`' if len({some.kind for some in found}) > 1 else ''}."
            )
        if not found:
            return None
        outputs = self.revisions.outputs(found[0].commit)
        tasks = tuple(task for task in task_names() if self._path(self.project.predictions(task)) in outputs)
        commit = found[0].commit
        return Match(name, found[0].kind, commit[:SHORT], tasks, commit=commit, outputs=outputs)

    def _version(self, name: str) -> Match | None:
        """Return the version of `models:/NAME/VERSION`, `models:/NAME@ALIAS`, or one of them without `models:/`.

        Without the prefix, NAME is a task or the name of one of the project's registered models.
        """
        explicit = name.startswith("models:/")
        match = re.fullmatch(
            r"(?P<model>[^@]+?)(?:/(?P<version>\d+)|@(?P<alias>[^@/]+))", name.removeprefix("models:/")
        )
        models = {self._model_name(task): task for task in task_names()}
        models |= {task: task for task in task_names()} if match and not explicit else {}
        if match is None or match["model"] not in models:
            if not explicit:
                return None
            raise ClipBertError(
                f"{name}: expected models:/NAME/VERSION or models:/NAME@ALIAS with one of the project's models: "
                f"{', '.join(models)}."
            )
        return self._registered(name, models[match["model"]], match["version"], match["alias"])

    def _alias(self, name: str) -> Match | None:
        """Return the version that has an alias: of --task, or of the only task that has it."""
        if (store := self._store) is None or not re.fullmatch(r"@?[\w-]+", name):
            return None
        alias = name.removeprefix("@")
        with store_errors(store.uri, "cannot be read"):
            tasks = [self.task] if self.task else list(task_names())
            having = [task for task in tasks if alias in aliases(store, store.model_name(task))]
        if len(having) > 1:
            raise ClipBertError(
                f"{name}: models of several tasks have this alias: {', '.join(having)}. Choose one, as --task "
                f"{having[0]} or {having[0]}@{alias}."
            )
        return self._registered(name, having[0], None, alias) if having else None

    def _registered(self, name: str, task: str, number: str | None, alias: str | None) -> Match:
        store, model = self._opened(name), self._model_name(task)
        with store_errors(store.uri, "cannot be read"):
            try:
                if alias is not None:
                    version = store.client.get_model_version_by_alias(model, alias)
                else:
                    version = store.client.get_model_version(model, number)
                run = store.client.get_run(version.run_id)
            except MlflowException as error:
                if not is_absent(error) and error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                known = ", ".join(f"{some} {version}" for some, version in aliases(store, model).items())
                what = f"alias {alias}" if alias is not None else f"version {number}"
                raise ClipBertError(
                    f"{name}: {model} has no {what} in {store.display_uri}. Its aliases are: {known or 'none'}. "
                    f"Register a model (`clipbert register {task}`) or promote one (`clipbert promote {task}`)."
                ) from error
        reference = f"{model} version {version.version}"
        return Match(name, "model version", reference, (task,), run=run, version=version)

    def _run(self, name: str, searched: str) -> Match | None:
        """Return the MLflow run with this id or name among the runs of the project's tasks."""
        if (store := self._store) is None:
            return None
        with store_errors(store.uri, "cannot be read"):
            if RUN_ID.fullmatch(searched):
                found = [store.client.get_run(searched)] if active_run(store, searched) is not None else []
            else:
                found = self._runs_named(store, searched)
        if len(found) > 1:
            listed = "\n".join(f"  run:{run.info.run_id} ({run.data.tags.get('clipbert.task')})" for run in found)
            raise ClipBertError(f"{name}: several MLflow runs have this name. Name one by its id:\n{listed}")
        if not found:
            return None
        run = found[0]
        task = run.data.tags.get("clipbert.task", "")
        if task not in task_names():
            raise ClipBertError(
                f"{name}: the MLflow run {run.info.run_id} is not a training of clipbert (it has no tag clipbert.task)."
            )
        return Match(name, "MLflow run", run.info.run_id[:8], (task,), run=run)

    def _runs_named(self, store: Store, name: str) -> list[Any]:
        quote = '"' if "'" in name else "'"
        if quote in name:
            return []
        models = [store.model_name(task) for task in ([self.task] if self.task else task_names())]
        experiments = [store.client.get_experiment_by_name(model) for model in models]
        ids = [some.experiment_id for some in experiments if some is not None]
        if not ids:
            return []
        return list(store.client.search_runs(ids, f"attributes.run_name = {quote}{name}{quote}", max_results=10))

    def _read(self, match: Match, task: str, scratch: Path) -> Source:
        """Return the source with its predictions, parameters, origin and cost."""
        if match.run is not None:
            items = self._items_of_run(match, task, scratch)
            params, tags, cost = dict(match.run.data.params), dict(match.run.data.tags), {}
            run = match.run
        else:
            items, described = self._items_of_files(match, task, scratch)
            params, tags = dict(described.get("params") or {}), dict(described.get("tags") or {})
            cost = recorded_cost(described)
            run = self._run_in_store(described.get("run_id"))
        cost |= {} if run is None else cost_of_run(run, task)
        origin = {name: tags[f"clipbert.{key}"] for name, key in ORIGIN.items() if f"clipbert.{key}" in tags}
        conditions = items.attrs.get(ATTRIBUTE, {})
        return Source(match.name, match.kind, match.reference, task, items, conditions, params, origin, cost)

    def _items_of_files(self, match: Match, task: str, scratch: Path) -> tuple[Any, dict[str, Any]]:
        """Return the predictions and the description of the run from the pipeline's outputs."""
        paths = [self.project.predictions(task), self.project.run(task)]
        if match.kind != WORKSPACE:
            names = [self._path(path) for path in paths]
            paths = [
                self.revisions.file(match.commit, name, match.outputs.get(name), scratch)
                for name in names
                if name in match.outputs
            ]
        items = self._named(match, read_predictions, paths[0], task)
        if len(paths) < 2 or not paths[1].exists():
            return items, {}
        remedy = f"Restore it with `dvc checkout {self._path(self.project.run(task))}`, or train again."
        return items, self._named(match, read_signed_json, paths[1], remedy, RUN_DESCRIPTION)

    def _items_of_run(self, match: Match, task: str, scratch: Path) -> Any:
        """Return the predictions that a run or a registered version has in MLflow."""
        store = self._opened(match.name)
        with store_errors(store.uri, "cannot be read"):
            if match.version is not None:
                found = self._named(match, stored_predictions, store, task, match.version)
                if isinstance(found, str):
                    raise ClipBertError(
                        f"{match.name} ({match.reference}): {found}. Register it again: `clipbert register {task}`."
                    )
                return found
            run_id = match.run.info.run_id
            stored = [
                file.path
                for folder in (EVALUATION, "predictions")
                for file in store.client.list_artifacts(run_id, folder)
                if file.path == f"{EVALUATION}/{task}.parquet" or file.path.startswith(f"predictions/{task}-")
            ]
            if not stored:
                raise ClipBertError(
                    f"{match.name}: the MLflow run {run_id} has no predictions. It was not evaluated, or by an older "
                    f"version of clipbert. Evaluate the model where it was trained: `clipbert evaluate {task}`."
                )
            folder = scratch / run_id
            folder.mkdir(exist_ok=True)
            path = Path(store.client.download_artifacts(run_id, stored[0], str(folder)))
        return self._named(match, read_predictions, path, task)

    def _named(self, match: Match, read: Any, *arguments: Any) -> Any:
        """Call a reader, and name the model in its error: the file may be one of a cache."""
        try:
            return read(*arguments)
        except ClipBertError as error:
            raise ClipBertError(f"{match.name} ({match.kind} {match.reference}): {error}") from error

    def _run_in_store(self, run_id: Any) -> Any:
        """Return MLflow's run with this id for its cost; None where the store does not have it or cannot be used."""
        try:
            if (store := self._store) is None or not isinstance(run_id, str):
                return None
            with store_errors(store.uri, "cannot be read"):
                return store.client.get_run(run_id) if active_run(store, run_id) is not None else None
        except ClipBertError:
            self._unreachable()
            return None

    def _unreachable(self) -> None:
        note = "MLflow cannot be used, so costs that only MLflow has are not shown."
        if note not in self.notes:
            self.notes.append(note)

    @cached_property
    def _store_or_problem(self) -> Store | ClipBertError | None:
        root = self.project.root
        if tracking_uri(root) == embedded_uri(root) and not (root / EMBEDDED).is_file():
            return None
        try:
            return open_store(root, self.release_name)
        except ClipBertError as error:
            return error

    @property
    def _store(self) -> Store | None:
        """The project's MLflow store; None where it does not exist or cannot be used."""
        found = self._store_or_problem
        if isinstance(found, ClipBertError):
            self._unreachable()
            return None
        return found

    def _opened(self, name: str) -> Store:
        """Return the store that `name` needs.

        Raises:
            ClipBertError: it does not exist or cannot be used.
        """
        found = self._store_or_problem
        if isinstance(found, ClipBertError):
            raise found
        if found is None:
            raise ClipBertError(
                f"{name}: the project has no MLflow store yet ({EMBEDDED}). Register a model first: `clipbert register "
                "TASK`, or set MLFLOW_TRACKING_URI to the server that has it."
            )
        return found

    def _store_problem(self) -> str:
        found = self._store_or_problem
        return f"\nRuns and versions were not searched: {found}" if isinstance(found, ClipBertError) else ""

    def _model_name(self, task: str) -> str:
        return f"{self.release_name}-{task}"

    def _path(self, path: Path) -> str:
        """Return a path as dvc.lock has it."""
        return path.relative_to(self.project.root).as_posix()
