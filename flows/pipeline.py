"""All stages of dvc.yaml as a Prefect flow: `python -m flows.pipeline`, or the deployment in prefect.yaml.

Each stage is a task. DVC skips stages that have not changed; a failed stage blocks only the stages that depend on it.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from clipbert.redact import install_redaction
from flows import PROJECT
from flows.artifacts import Metrics, publish_links, publish_metrics, publish_stages, read_results
from flows.graph import Graph, GraphError, read_graph, select, stage_name
from flows.parameters import ParameterError, project_folder
from flows.project_lock import flow_run_lock
from flows.run_log import record_run, write_dashboard
from flows.stage import StageError, StageResult, run_stage
from flows.supervisor import Supervisor
from flows.temporary_server import run_from_terminal

DASHBOARD = "dashboard"  # the stage
FLOW_RUN = "CLIPBERT_FLOW_RUN"
NAMES = {"ran": "Completed", "unchanged": "Unchanged", "restored": "Restored"}
MESSAGES = {
    "ran": None,
    "unchanged": "Unchanged, skipped: none of its dependencies has changed",
    "restored": "Outputs restored from DVC's cache of an earlier run",
}


def is_retryable(_task: Any, _run: TaskRun, state: State) -> bool:
    """Return whether another attempt of a task may succeed."""
    error = state.data
    return isinstance(error, StageError) and error.retryable


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_retryable)
def stage_task(
    stage: str, supervisor: Supervisor, time_limit_s: float | None, variables: Mapping[str, str] | None = None
) -> State:
    """Run one stage of dvc.yaml; the output of the stage is the log of the task."""
    try:
        result = run_stage(stage, supervisor, get_run_logger().info, time_limit_s, variables)
    except StageError as error:
        return Failed(message=str(error), data=error)
    return Completed(name=NAMES[result.outcome], message=MESSAGES[result.outcome], data=result)


@flow(name="clipbert-pipeline")
def pipeline(
    stages: list[str] | None = None,
    parallel: Annotated[int, Field(ge=1)] = 1,
    retries: Annotated[int, Field(ge=0)] = 1,
    retry_delay_s: Annotated[float, Field(ge=0)] = 10.0,
    time_limit_s: Annotated[float, Field(gt=0)] | None = None,
    gpu_stages: list[str] | None = None,
    root: str = ".",
) -> State:
    """Run the stages of dvc.yaml whose data, code or parameters have changed, in dependency order.

    Args:
        stages: run only these stages and their dependencies; `train` stands for the trainings of all tasks. Empty: all.
        parallel: number of stages that may run at the same time. Parallel trainings need one GPU each.
        retries: number of retries of a failed stage. User errors (exit code 2) are not retried.
        retry_delay_s: seconds before each retry.
        time_limit_s: seconds after which a running stage is stopped and fails. Empty: no limit.
        gpu_stages: stages that occupy a GPU slot. They have the tag `gpu`; a Prefect concurrency limit on this tag
            sets the number of slots of all workers. Empty: train and evaluate.
        root: the project's folder. Another folder is rejected.
    """
    try:
        project = project_folder(root)
        whole = read_graph(project)
        graph = select(whole, stages)
    except (GraphError, ParameterError) as error:
        return Failed(message=str(error))
    how = StageOptions(parallel, retries, retry_delay_s, time_limit_s, gpu_stages)
    with flow_run_lock(project):
        final, _ = run_stages(project, whole, graph, how)
        return final


@dataclass(frozen=True)
class StageOptions:
    """How stages run: the parameters of the flow `pipeline` with the same names.

    Attributes:
        variables: added to the environment of the stages.
    """

    parallel: int = 1
    retries: int = 1
    retry_delay_s: float = 10.0
    time_limit_s: float | None = None
    gpu_stages: list[str] | None = None
    variables: Mapping[str, str] | None = None

    def with_variables(self, variables: Mapping[str, str]) -> "StageOptions":
        """Return the same options with other variables."""
        return replace(self, variables=variables)


def run_stages(project: Path, whole: Graph, graph: Graph, how: StageOptions) -> tuple[State, dict[str, State]]:
    """Run stages as tasks of the current flow run, which holds the project's lock; record the run.

    Args:
        whole: all stages of the project.
        graph: the stages to run.

    Returns:
        The final state, and the state of each stage that ran.
    """
    logger = get_run_logger()
    logger.info("%d stages in %s: %s", len(graph), project, ", ".join(graph))
    tagged = {"train", "evaluate"} if how.gpu_stages is None else set(how.gpu_stages)
    tasks = {
        stage: stage_task.with_options(
            name=stage,
            task_run_name=stage,
            tags={"gpu"} if {stage, stage_name(stage)} & tagged else None,
            retries=how.retries,
            retry_delay_seconds=how.retry_delay_s,
        )
        for stage in graph
    }
    started = datetime.now(UTC)
    os.environ[FLOW_RUN] = f"{flow_run.name} ({flow_run.id})"  # the stages record it with the models
    before = read_results(project / "artifacts/metrics")
    states = _run_in_order(project, graph, tasks, how)
    final = _summarize(project, graph, states, before)
    name, tags = flow_run.name or "without a name", list(flow_run.tags or [])
    record_run(project, name, tags, started, final.name or final.type.value, final.message or "")
    # Its stage writes it too, but not after a failed stage and not if nothing has changed.
    if DASHBOARD in whole and (problem := write_dashboard(project)):
        logger.warning("The dashboard was not written: %s", problem)
    return final, states


def _run_in_order(project: Path, graph: Graph, tasks: dict[str, Any], how: StageOptions) -> dict[str, State]:
    """Run each stage after its dependencies, at most `parallel` at a time; return the states of the stages that ran.

    If the flow is cancelled or interrupted, the processes of the stages are ended before their tasks are awaited.
    """
    futures: dict[str, PrefectFuture[Any]] = {}
    stage_of: dict[PrefectFuture[Any], str] = {}
    states: dict[str, State] = {}
    finished: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    order = TopologicalSorter(graph)
    order.prepare()
    ready: list[str] = []
    # One thread more than `parallel`: Prefect warns of deadlocks if a pool has fewer threads than a task has tags,
    # although no task here waits for another one.
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=how.parallel + 1)
    with runner as pool, Supervisor(project) as supervisor:
        while True:
            ready += order.get_ready()
            while ready and len(futures) - len(states) < how.parallel:
                stage = ready.pop(0)
                needs = [futures[need] for need in graph[stage]]
                arguments = {"stage": stage, "supervisor": supervisor, "time_limit_s": how.time_limit_s}
                arguments["variables"] = how.variables
                futures[stage] = pool.submit(tasks[stage], arguments, wait_for=needs)
                stage_of[futures[stage]] = stage
                futures[stage].add_done_callback(finished.put)
            if len(futures) == len(states):
                return states
            future = finished.get()
            future.wait()
            stage = stage_of[future]
            states[stage] = future.state
            if states[stage].is_completed():
                order.done(stage)


def _summarize(project: Path, graph: Graph, states: dict[str, State], before: Metrics) -> State:
    """Publish the artifacts; return the final state with the outcome of each stage, the metrics and the models."""
    results: list[StageResult] = [state.result() for state in states.values() if state.is_completed()]
    failed = [stage for stage, state in states.items() if not state.is_completed()]
    blocked = [stage for stage in graph if stage not in states]
    metrics, runs, releases = (
        read_results(project / "artifacts" / folder) for folder in ("metrics", "runs", "releases")
    )
    publish_stages(results, dict.fromkeys(failed, "failed") | dict.fromkeys(blocked, "not run"))
    publish_metrics(metrics, before)
    publish_links(runs, releases)
    if failed:
        also = f" Not run, because they depend on it: {', '.join(blocked)}." if blocked else ""
        reasons = "\n".join(states[stage].message or stage for stage in failed)
        return Failed(message=f"{', '.join(failed)} failed.{also}\n{reasons}")
    outcomes = {result.stage: result.outcome for result in results}
    ran = [stage for stage, outcome in outcomes.items() if outcome != "unchanged"]
    message = f"{len(ran)} of {len(graph)} stages had work: {', '.join(ran)}" if ran else "Everything was up to date"
    return Completed(message=message, data={"stages": outcomes, "metrics": metrics, "models": releases})


def main() -> int:
    """Run the flow with the parameters of the command line; return exit code 1 if a stage failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("stages", nargs="*", help="only these and their dependencies, e.g. train or evaluate@retrieval")
    parser.add_argument("--parallel", type=int, default=1, help="number of stages at the same time (1)")
    parser.add_argument("--retries", type=int, default=1, help="retries of a failed stage (1)")
    parser.add_argument("--retry-delay", type=float, default=10.0, metavar="S", help="seconds before each retry (10)")
    parser.add_argument("--time-limit", type=float, metavar="S", help="time limit of a stage in seconds (none)")
    options = parser.parse_args()
    install_redaction()
    if options.parallel < 1 or options.retries < 0 or options.retry_delay < 0 or (options.time_limit or 1) <= 0:
        parser.error("expected --parallel >= 1, --time-limit > 0, --retries >= 0 and --retry-delay >= 0")
    state = run_from_terminal(
        PROJECT,
        lambda: pipeline(
            stages=options.stages or None,
            parallel=options.parallel,
            retries=options.retries,
            retry_delay_s=options.retry_delay,
            time_limit_s=options.time_limit,
            return_state=True,
        ),
    )
    if state is None:
        return 1
    summary: Any = state.result()
    for stage, outcome in summary["stages"].items():
        print(f"{stage:<24}{outcome if outcome != 'unchanged' else 'unchanged, skipped'}")
    for task_name, values in summary["metrics"].items():
        print(f"\n{task_name}")
        for metric, value in values.items():
            print(f"  {metric:<30}{value:>10.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
