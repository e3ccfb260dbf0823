"""The whole chain as a Prefect flow: `python -m flows.pipeline`, or the deployment in prefect.yaml.

Each stage of dvc.yaml is a task. What has not changed is skipped by DVC; what fails holds back only what needs it.
"""

import argparse
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import publish_links, publish_metrics, publish_stages, read_results
from flows.graph import Graph, GraphError, base, read_graph, select
from flows.process import Supervisor
from flows.stage import StageError, StageResult, run_stage

NAMES = {"ran": "Completed", "unchanged": "Unchanged", "restored": "Restored"}
MESSAGES = {
    "ran": None,
    "unchanged": "Unchanged, skipped: nothing it depends on has changed",
    "restored": "Outputs restored from DVC's cache: this work was done before",
}


def _worth_another_try(_task: Any, _run: TaskRun, state: State) -> bool:
    error = state.data
    return isinstance(error, StageError) and error.retryable


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=_worth_another_try)
def stage_task(stage: str, supervisor: Supervisor, time_limit_s: float | None) -> State:
    """Run one stage; the task's log is the stage's output, the task's state what came of it."""
    try:
        result = run_stage(stage, supervisor, get_run_logger().info, time_limit_s)
    except StageError as error:
        return Failed(message=str(error), data=error)
    return Completed(name=NAMES[result.outcome], message=MESSAGES[result.outcome], data=result)


@flow(name="clipbert-pipeline")
def pipeline(
    stages: list[str] | None = None,
    parallel: int = 1,
    retries: int = 1,
    retry_delay_s: float = 10.0,
    time_limit_s: float | None = None,
    gpu_stages: list[str] | None = None,
    root: str = ".",
) -> State:
    """Bring the project up to date: every stage of dvc.yaml, in the order dvc.yaml gives.

    Args:
        stages: run only these and what they need; a name such as `train` means every task's. Empty: all.
        parallel: stages that may run at the same time. More than one training wants more than one GPU.
        retries: further tries of a stage that fails; a user's error (exit code 2) is not tried again.
        retry_delay_s: seconds before each further try.
        time_limit_s: a stage that takes longer is stopped and fails. Empty: no limit.
        gpu_stages: stages that need a GPU slot, tagged `gpu`; a Prefect concurrency limit on that tag says how many
            run at once over all workers. Empty: train and evaluate.
        root: the project's folder, from the folder in which the flow runs.
    """
    project = Path(root).resolve()
    try:
        graph = select(read_graph(project), stages)
    except GraphError as error:
        return Failed(message=str(error))
    get_run_logger().info("%d stages in %s: %s", len(graph), project, ", ".join(graph))

    before = read_results(project / "artifacts/metrics")
    tagged = {"train", "evaluate"} if gpu_stages is None else set(gpu_stages)
    tasks = {
        stage: stage_task.with_options(
            name=stage,
            task_run_name=stage,
            tags={"gpu"} if {stage, base(stage)} & tagged else None,
            retries=retries,
            retry_delay_seconds=retry_delay_s,
        )
        for stage in graph
    }
    states = _run_in_order(project, graph, tasks, time_limit_s, parallel)

    results: list[StageResult] = [state.result() for state in states.values() if state.is_completed()]
    failed = [stage for stage, state in states.items() if not state.is_completed()]
    waiting = [stage for stage in graph if stage not in states]
    troubles = dict.fromkeys(failed, "failed") | dict.fromkeys(waiting, "not run")
    metrics = read_results(project / "artifacts/metrics")
    runs, releases = (read_results(project / "artifacts" / folder) for folder in ("runs", "releases"))
    publish_stages(results, troubles)
    publish_metrics(metrics, before)
    publish_links(runs, releases)
    if failed:
        held = f" Not run, since they need it: {', '.join(waiting)}." if waiting else ""
        reasons = "\n".join(states[stage].message or stage for stage in failed)
        return Failed(message=f"{', '.join(failed)} failed.{held}\n{reasons}")

    outcomes = {result.stage: result.outcome for result in results}
    ran = [stage for stage, outcome in outcomes.items() if outcome != "unchanged"]
    message = f"{len(ran)} of {len(graph)} stages had work: {', '.join(ran)}" if ran else "Everything was up to date"
    return Completed(message=message, data={"stages": outcomes, "metrics": metrics, "models": releases})


def _run_in_order(
    project: Path, graph: Graph, tasks: dict[str, Any], time_limit_s: float | None, parallel: int
) -> dict[str, State]:
    """Run each stage once all it needs have completed, at most `parallel` at a time; the states of those that ran.

    Cancelled or interrupted, it first ends the stages' processes and then waits for their tasks.
    """
    futures: dict[str, PrefectFuture[Any]] = {}
    stage_of: dict[PrefectFuture[Any], str] = {}
    states: dict[str, State] = {}
    finished: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    order = TopologicalSorter(graph)
    order.prepare()
    ready: list[str] = []
    # The pool holds more threads than `parallel` stages need: Prefect warns of deadlocks where a tagged task has fewer
    # threads than tags, although nothing submitted here ever waits for another task.
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=parallel + 1)
    with runner as pool, Supervisor(project) as supervisor:
        while True:
            ready += order.get_ready()
            while ready and len(futures) - len(states) < parallel:
                stage = ready.pop(0)
                needs = [futures[need] for need in graph[stage]]
                arguments = {"stage": stage, "supervisor": supervisor, "time_limit_s": time_limit_s}
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


def main() -> int:
    """The command line: the flow's parameters as options, a summary at the end, exit code 1 if a stage failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("stages", nargs="*", help="only these and what they need, e.g. train or evaluate@retrieval")
    parser.add_argument("--parallel", type=int, default=1, help="stages at the same time (1)")
    parser.add_argument("--retries", type=int, default=1, help="further tries of a failing stage (1)")
    parser.add_argument("--retry-delay", type=float, default=10.0, metavar="S", help="seconds before each try (10)")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds a stage may take (no limit)")
    options = parser.parse_args()
    state: State[Any] = pipeline(
        stages=options.stages or None,
        parallel=options.parallel,
        retries=options.retries,
        retry_delay_s=options.retry_delay,
        time_limit_s=options.time_limit,
        return_state=True,
    )
    if not state.is_completed():
        print(state.message, file=sys.stderr)
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
