"""One function a verb: reads its inputs, calls its room, writes its outputs. The order of the work is in dvc.yaml."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from clipbert.config.schema import Params
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.evaluation.predictions_file import write_predictions
from clipbert.files.atomic import atomic_directory, sha256_file, write_errors, write_json
from clipbert.files.checksums import CHECKSUMS, DamagedError, check_files, write_checksums
from clipbert.files.linked_folders import check_artifacts, writable_data
from clipbert.files.signed_json import write_signed_json
from clipbert.project import Project
from clipbert.redact import redact_values

ORPHAN_S = 20.0  # what a training whose DVC or torchrun was killed is given to save and end


def sample_data(project: Project, seed: int) -> None:
    """Make the embedded sample set in data/."""
    from clipbert.data.synthetic.sample_set import make_sample_data

    make_sample_data(writable_data(project.data), seed)


def ingest(project: Project, params: Params) -> None:
    """data/ to artifacts/manifest/."""
    from clipbert.data.ingest.stage import ingest

    check_artifacts(project.root)
    _say(ingest(project.data, project.manifest, params.ingest).lines())


def validate(project: Project, params: Params) -> None:
    """The gate over artifacts/manifest/."""
    from clipbert.data.validation.stage import validate
    from clipbert.model.text_limit import text_limit

    check_artifacts(project.root)
    limit = text_limit(project.root, project.manifest, params.model)
    validate(project.manifest, project.validation, params.validate_, params.tasks.open_qa.max_answers, limit)


def frames(project: Project, params: Params, repair: bool = False) -> None:
    """data/ and the manifest to artifacts/frames/."""
    from clipbert.frame_cache.build import build_cache

    check_artifacts(project.root)
    summary = build_cache(
        project.data,
        project.manifest,
        project.frames,
        params.frames,
        repair=repair,
        max_quarantined_fraction=params.ingest.max_quarantined_fraction,
    )
    _say(summary.lines())


def train(project: Project, task_name: str, params: Params) -> None:
    """The cache and the texts to artifacts/models/TASK/, in one MLflow run; goes on where a killed training stopped.

    Under torchrun this is one process of several; the first one tracks, writes and speaks.
    """
    import pandas as pd
    import torch

    from clipbert.data.manifest import read_texts
    from clipbert.distributed.context import device_of_this_process, init_distributed
    from clipbert.frame_cache import FrameCache
    from clipbert.release.tracking import start_training_run
    from clipbert.tasks import make_task
    from clipbert.tasks.base import texts_with_frames, training_words
    from clipbert.tasks.scoring import cached_frames_params
    from clipbert.training.checkpoint import Checkpoints
    from clipbert.training.length import length_lines
    from clipbert.training.setup import build_model
    from clipbert.training.trainer import NoOpTracker, Run, export, start, train
    from clipbert.training.training_card import training_card

    check_artifacts(project.root)
    params = resolve_init_from(project, task_name, params)
    task = make_task(task_name, params)
    texts = read_texts(project.manifest)
    cache = FrameCache(project.frames)
    device = device_of_this_process()
    with init_distributed(device) as ranks:
        console.quiet = not ranks.first
        texts = texts_with_frames(texts, cache)
        examples, val = task.examples(texts, "train"), task.examples(texts, "val")
        torch.manual_seed(params.seed)
        others = training_words(texts) if task.whole_vocabulary else []
        model, processor = build_model(task, examples, params, others)
        processor.frames = cached_frames_params(cache)
        checkpoints = Checkpoints(
            project.checkpoints(task_name),
            fingerprint(project, task_name, params),
            params.train.keep_checkpoints,
            {"processes": ranks.world, "device": device.type, "torch": torch.__version__},
        )
        run = Run(task, model, processor, cache, examples, val, params, checkpoints, device, ranks)
        enough, min_steps = params.validate_.min_train_videos, params.train.min_steps
        length = None if params.train.budget else run.length()
        _say(length_lines(task_name, len(examples), length, min_steps, enough))
        if not ranks.first:
            state, stepper = start(run)
            train(run, state, stepper, NoOpTracker())
            return
        with _only_one(project.checkpoints(task_name)):
            state, stepper = start(run)
            described = train_params(task_name, params)
            with start_training_run(project.root, task_name, described, state.run_id, params.release.name) as tracker:
                state = train(run, state, stepper, tracker)
                card = training_card(run, state, project.model(task_name).relative_to(project.root), tracker.tags)
                export(run, project.model(task_name), card)
                with atomic_directory(project.history(task_name)) as folder:
                    pd.DataFrame(state.history).to_csv(folder / "train.csv", index=False)
                    pd.DataFrame(state.validation).to_csv(folder / "val.csv", index=False)
                    write_checksums(folder, folder.glob("*.csv"))
                described = {**tracker.describe(), "seconds": round(state.seconds, 1)}
                write_signed_json(project.run(task_name), described)
            checkpoints.clear()
    console.print(
        f"{task_name}: {state.step} steps in {state.seconds:.0f} s; the best epoch is {state.best_epoch} "
        f"({task.main_metric} {state.best:.1f} on validation); model in {project.model(task_name)}",
        markup=False,
    )


def evaluate(project: Project, task_name: str, params: Params) -> None:
    """A trained model over the test split: metrics, predictions, plots, report, and the same into its MLflow run."""
    import pandas as pd

    from clipbert.evaluation.plots import write_tables
    from clipbert.evaluation.report import write_pictures, write_report
    from clipbert.evaluation.run import evaluate_model
    from clipbert.frame_cache import FrameCache
    from clipbert.release.provenance import provenance
    from clipbert.release.tracking import log_evaluation
    from clipbert.tasks import make_task

    check_artifacts(project.root)
    task = make_task(task_name, params)
    if (project.manifest / "texts.parquet").exists():
        _check_trained(project, task_name)
    check_history(project.history(task_name), task_name)
    evaluation = evaluate_model(project.model(task_name), task_name, project.manifest, project.frames, params)
    cache = FrameCache(project.frames)
    metrics = {name: round(value, 4) for name, value in evaluation.metrics.items()}
    write_json(project.metrics(task_name), metrics)
    write_predictions(project.predictions(task_name), evaluation.items, metrics)
    with atomic_directory(project.plots(task_name)) as folder:
        write_tables(evaluation, folder)
    origin = provenance(project.root)
    history = project.history(task_name)
    write_report(
        evaluation,
        cache,
        pd.read_csv(history / "train.csv"),
        pd.read_csv(history / "val.csv"),
        task.main_metric,
        lineage=lineage(origin),
        params=train_params(task_name, params),
        out=project.report(task_name),
    )
    with atomic_directory(project.artifacts / "pictures" / task_name) as folder:
        pictures = write_pictures(task_name, evaluation.items, cache, folder)
        files = [project.metrics(task_name), project.report(task_name)]
        log_evaluation(project.root, project.run(task_name), evaluation.metrics, files, pictures, params.release.name)
    for name, value in sorted(evaluation.metrics.items()):
        console.print(f"  {name:<40} {value:8.2f}", markup=False)


def check_history(folder: Path, task_name: str) -> None:
    """Check the curves of a training against their checksums; those of an earlier version have none.

    Raises:
        ClipBertError: a file is damaged or missing.
    """
    if (folder / CHECKSUMS).is_file():
        try:
            check_files(folder)
        except DamagedError as error:
            raise ClipBertError(
                f"{error}. Restore it: dvc checkout {folder}, or train again: clipbert train {task_name}"
            ) from error


def register(project: Project, task_name: str, params: Params) -> None:
    """A trained and evaluated model to the registry, as its candidate."""
    from clipbert.release.registry import register

    _check_trained(project, task_name)
    for path in (project.metrics(task_name), project.predictions(task_name)):
        if not path.exists():
            raise ClipBertError(
                f"{path}: not found: {task_name} is not evaluated yet. Run `clipbert evaluate {task_name}` first, or "
                "`dvc repro` for all stages."
            )
    release = register(
        project.root,
        task_name,
        project.model(task_name),
        project.run(task_name),
        project.metrics(task_name),
        project.predictions(task_name),
        project.release(task_name),
        params,
    )
    console.print(f"{release.name} version {release.version} is the {release.alias}.", markup=False)


def promote(project: Project, task_name: str, params: Params, reconsider: bool, reevaluate: bool = False) -> None:
    """The candidate to champion, if it is better on the same test items."""
    from clipbert.evaluation.conditions import with_conditions
    from clipbert.evaluation.run import evaluate_model
    from clipbert.release.promotion import promote

    def evaluate_champion(model_dir: Path, recorded: Mapping[str, Any]) -> Any:
        as_candidate = with_conditions(task_name, params, recorded)
        return evaluate_model(model_dir, task_name, project.manifest, project.frames, as_candidate).items

    decision = promote(project.root, task_name, params.release, params.seed, evaluate_champion, reconsider, reevaluate)
    console.print(f"{decision.name}: {decision.decision}. {decision.reason}", markup=False)


def rollback(project: Project, task_name: str, params: Params) -> None:
    """The champion back to the one before it."""
    from clipbert.release.promotion import rollback

    decision = rollback(project.root, task_name, params.release.name)
    console.print(f"{decision.name}: {decision.reason}.", markup=False)


def resolve_init_from(project: Project, task_name: str, params: Params) -> Params:
    """`params` with the start that is this task's where `model.init_from` names what pretraining writes: pretraining
    itself starts from `model.vision` and `model.text`, the other tasks from the model that it made of them.

    Raises:
        ClipBertError: another task would start from what it writes.
    """
    if params.model.start_from is None:
        return params
    start = (project.root / params.model.start_from).resolve()
    if start == project.model("pretrain").resolve():
        made = {"init_from": None} if task_name == "pretrain" else {"vision": None, "text": None}
        return params.model_copy(update={"model": params.model.model_copy(update=made)})
    if start == project.model(task_name).resolve():
        raise ClipBertError(
            f"model.init_from: {params.model.init_from} is what this training writes. Start it from another folder, or "
            "set model.init_from to null."
        )
    return params


def train_params(task_name: str, params: Params) -> dict[str, Any]:
    """The parameters a training depends on, flat: what DVC lists for its stage.

    They go to MLflow, checkpoints, the model card and the report, so passwords in addresses are hidden.
    """
    others = {f"tasks.{name}." for name in type(params.tasks).model_fields if name != task_name}
    wanted = ("seed", "model.", "train.", "tasks.", "frames.", "evaluate.clips")
    chosen = {
        name: value
        for name, value in params.flat().items()
        if name.startswith(wanted) and not any(name.startswith(other) for other in others)
    }
    redacted: dict[str, Any] = redact_values(chosen)
    return redacted


def lineage(origin: dict[str, str]) -> dict[str, str]:
    """What a report says of its origin: enough of each hash to find it again."""
    hashes = {"data": "data_digest", "git commit": "git_commit", "dvc.lock": "dvc_lock"}
    shown = {name: origin[f"clipbert.{key}"][:12] for name, key in hashes.items()}
    return {**shown, "device": origin["clipbert.device"], "clipbert": origin["clipbert.version"]}


def fingerprint(project: Project, task_name: str, params: Params) -> dict[str, Any]:
    """What a checkpoint must have been made with to be gone on from; not how the training is carried out."""
    from clipbert.config.training import RUNTIME_ONLY

    data = {path.name: sha256_file(path) for path in sorted(project.manifest.glob("*.parquet"))}
    starts = {"init_from": params.model.start_from, "vision": params.model.vision_from, "text": params.model.text_from}
    for name, start in starts.items():
        # a hub id is told by itself, among the parameters
        if start is not None and (name == "init_from" or (project.root / start).is_dir()):
            from clipbert.model.weights.init_from import digest

            data[f"the model of model.{name}"] = digest(project.root / start, f"model.{name}")
    carried_out = tuple(f"train.{name}" for name in RUNTIME_ONLY)
    # The number of clips of evaluation is stored with the model and decides nothing in its weights.
    left_out = (*carried_out, "evaluate.clips")
    asked = {name: value for name, value in train_params(task_name, params).items() if name not in left_out}
    return {**asked, **data, "frame cache": sha256_file(project.frames / "index.arrow")}


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One training of a task at a time: DVC's own lock ends with DVC, and its child lives on until it has saved."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        until = time.monotonic() + ORPHAN_S
        while not _locked(lock):
            lock.seek(0)
            pid = lock.read().strip()
            if time.monotonic() > until:
                raise ClipBertError(
                    f"{folder}: another training of this task is running, process {pid}. "
                    f"Wait for it, or end it with `kill {pid}`; the next run goes on from its last checkpoint."
                )
            time.sleep(0.2)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        console.print(
            f"{file.name}: this file system has no locks ({error.strerror}): see to it that one training of a task "
            "runs at a time.",
            markup=False,
        )
    return True


def _check_trained(project: Project, task_name: str) -> None:
    """Check that the outputs of `clipbert train` are there.

    Raises:
        ClipBertError: naming the file that is missing and the command that makes it.
    """
    made = (project.model(task_name) / "config.json", project.run(task_name), project.history(task_name) / "train.csv")
    for path in made:
        if not path.exists():
            raise ClipBertError(
                f"{path}: not found: {task_name} is not trained yet. Run `clipbert train {task_name}` first, or "
                "`dvc repro` for all stages."
            )


def _say(lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False)
