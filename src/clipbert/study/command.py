"""The steps of `clipbert study`: what it will do, the points, the parent run in MLflow, and the result."""

from collections.abc import Iterator, Mapping

from clipbert.console import RedactedConsole, console
from clipbert.errors import USER_ERROR, ClipBertError
from clipbert.files.signed_json import read_signed_json, write_signed_json
from clipbert.release.study_run import StudyRun
from clipbert.study.analysis import Analysis, analyze
from clipbert.study.overlay import write_overlay
from clipbert.study.page import write_page
from clipbert.study.plan import Point
from clipbert.study.records import Record
from clipbert.study.result import write_result
from clipbert.study.runner import POINTS, Study
from clipbert.study.text import result_lines

WIDTH = 120  # columns in a log
RUN = "mlflow.json"  # in the study's folder: the id of the parent run
# Assumed for the first estimate, until a point is finished: seconds of a point besides its training.
OVERHEAD_S = 60.0


def run_study(study: Study, jobs: int | None, release_name: str) -> int:
    """Run the points that are not finished, write tables, page and recipe, and return the exit code.

    Raises:
        ClipBertError: the store cannot be used, another process runs this study, or no point of the base is finished.
        KeyboardInterrupt, SystemExit: the study was stopped; finished points are kept.
    """
    plan = study.plan
    gpus = _gpus()
    run = _open_run(study, release_name)
    before = study.records()
    for point in plan.points:
        if point.name in before:
            run.add_point(before[point.name].run_id, _point_metrics(before[point.name]))
    if before:
        console.print(f"{len(before)} of {len(study.fingerprints)} trainings are finished already.")

    def on_point(point: Point, record: Record) -> None:
        run.add_point(record.run_id, _point_metrics(record))

    try:
        failures = study.run(jobs or max(1, gpus), gpus, on_point)
    except (KeyboardInterrupt, SystemExit):
        run.finish("KILLED", {}, "The study was stopped; `clipbert study` continues it.", [])
        raise
    if failures:
        run.finish("FAILED", {}, "\n".join(f"- {failure}" for failure in failures), [])
    else:
        study.remove_workspaces()
    analysis = analyze(plan, study.records(), study.folder / POINTS)
    written = [write(plan, study.commit, analysis, study.folder) for write in (write_result, write_page)]
    recipe = None
    if not failures:
        recipe = write_overlay(study.project, plan, analysis.choice)
        run.finish("FINISHED", _result_metrics(analysis), "\n".join(_answer(analysis)), [*written, recipe])
    width = console.width if console.is_terminal else WIDTH
    tables = RedactedConsole(width=width, highlight=False, markup=False, emoji=False)
    for part in result_lines(plan, analysis):
        tables.print(part)
    places = [path.relative_to(study.project.root) for path in (*written, *([recipe] if recipe else []))]
    console.print("Written: " + ", ".join(map(str, places)))
    if failures:
        console.print(f"{len(failures)} trainings failed; the same command runs them again.")
    return USER_ERROR if failures else 0


def describe_plan(study: Study, jobs: int | None) -> Iterator[str]:
    """Yield the trainings, and the expected time of those that are not finished."""
    plan, records = study.plan, study.records()
    for point in plan.points:
        state = "finished" if point.name in records else "to do"
        yield f"  {point.name:<64} {state}"
    left = len(study.fingerprints) - len(records)
    evaluations = len(plan.clips) * max(1, len(plan.grid.aggregations))
    yield (
        f"{len(plan.settings)} settings, {len(plan.grid.seeds)} seeds: {len(study.fingerprints)} trainings of "
        f"{plan.grid.budget_text}, {evaluations} evaluations on the validation split each; {left} to do."
    )
    at_once = min(jobs or max(1, _gpus()), max(1, left))
    if (each := _expected_seconds(study, records)) is None:
        yield "Expected time: unknown until the first training is finished."
    else:
        yield f"Expected time: about {left * each / at_once / 60:.0f} min, {at_once} at a time."


def _expected_seconds(study: Study, records: Mapping[str, Record]) -> float | None:
    """Return the expected seconds of a point, from the finished ones, the budget, or the last training of the task."""
    if records:
        return sum(record.wall_s for record in records.values()) / len(records)
    budget, task = study.plan.grid.budget, study.plan.grid.task
    if budget.unit == "s":
        return budget.amount + OVERHEAD_S
    if budget.unit == "steps":
        try:
            last = read_signed_json(study.project.run(task), "")
            return float(last["seconds"]) / float(last["steps"]) * budget.amount + OVERHEAD_S
        except (ClipBertError, KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
    return None


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _open_run(study: Study, release_name: str) -> StudyRun:
    """Create or continue the parent run; its id is kept in the study's folder."""
    grid, path = study.plan.grid, study.folder / RUN
    try:
        known = read_signed_json(path, "").get("run_id")
    except ClipBertError:
        known = None  # there is none yet, or it is damaged: a new run
    described = {
        "grid": grid.path.name,
        "budget": grid.budget_text,
        "seeds": list(grid.seeds),
        "settings": len(study.plan.settings),
        **{f"axis.{axis.name}": [label for label, _ in axis.settings] for axis in study.plan.axes},
    }
    run = StudyRun.open(study.project.root, grid.task, grid.name, described, release_name, known)
    study.folder.mkdir(parents=True, exist_ok=True)
    write_signed_json(path, {"run_id": run.run_id})
    return run


def _point_metrics(record: Record) -> dict[str, float]:
    """Return the validation metrics of a point's evaluations by the names of its run: study/clips2_lse/retrieval_r1."""
    return {
        f"study/clips{one.clips}_{one.aggregation}/{name.replace('/', '_')}": value
        for one in record.evaluations
        for name, value in one.metrics.items()
    }


def _result_metrics(analysis: Analysis) -> dict[str, float]:
    return {
        "study/best": analysis.best.mean.value,
        "study/best_standard_error": analysis.best.mean.standard_error,
        "study/chosen": analysis.choice.mean.value,
    }


def _answer(analysis: Analysis) -> Iterator[str]:
    best, choice = analysis.best, analysis.choice
    yield f"- Cheapest setting within one standard error of the best: **{choice.name}**, {analysis.metric} "
    yield f"  {choice.mean.value:.1f} on validation; the best is {best.name} with {best.mean.value:.1f}."
    for axis in analysis.axes:
        yield f"- {axis.name}: {axis.finding}"
