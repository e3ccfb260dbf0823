"""Graph of stages, read from DVC: dvc.yaml is the only place that defines the order of the stages."""

import difflib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from clipbert.redact import redact
from flows.supervisor import environment

_NODE = re.compile(r'^"(?P<name>[^"]+)";$')
_EDGE = re.compile(r'^"(?P<first>[^"]+)" -> "(?P<then>[^"]+)";$')

Graph = dict[str, tuple[str, ...]]


class GraphError(Exception):
    """The stages cannot be read, or a requested stage does not exist; the message says what to do."""


def read_graph(root: Path) -> Graph:
    """Return the stages of the project at `root` in topological order, each with the stages that it depends on.

    `dvc dag --dot` (0.8 s) is documented, expands foreach and matrix, and includes the edges from output paths. Data
    sources such as data.dvc are nodes too, as for `dvc repro`.

    Raises:
        GraphError: there is no DVC project at `root`, or its dvc.yaml is invalid.
    """
    if not (root / "dvc.yaml").is_file():
        raise GraphError(f"{root.resolve()}: no dvc.yaml here. Start the flow in the project's folder, or pass root.")
    command = [sys.executable, "-m", "dvc", "dag", "--dot"]
    answer = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)
    if answer.returncode != 0:
        raise GraphError(f"{root.resolve()}: the stages cannot be read:\n{redact(answer.stderr.strip())}")
    return parse_dot(answer.stdout)


def parse_dot(dot: str) -> Graph:
    """Return the graph that `dvc dag --dot` wrote in the DOT language, in topological order."""
    needs: dict[str, list[str]] = {}
    for line in map(str.strip, dot.splitlines()):
        if node := _NODE.match(line):
            needs.setdefault(node["name"], [])
        elif edge := _EDGE.match(line):
            needs.setdefault(edge["then"], []).append(edge["first"])
    return {stage: tuple(needs.get(stage, ())) for stage in TopologicalSorter(needs).static_order()}


def select(graph: Graph, stages: list[str] | None) -> Graph:
    """Return the part of the graph with `stages` and all their dependencies, as `dvc repro STAGE...` selects it.

    Args:
        graph: the whole graph.
        stages: names of stages; without the part after the @, all stages of that group. None: the whole graph.

    Raises:
        GraphError: no stage has one of the names.
    """
    if stages is None:
        return graph
    wanted: set[str] = set()
    for name in stages:
        named = [stage for stage in graph if name in (stage, stage_name(stage))]
        if not named:
            near = difflib.get_close_matches(name, graph, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise GraphError(f"{name}: dvc.yaml has no such stage.{hint} There are: {', '.join(graph)}.")
        wanted.update(named)
    for stage in reversed(list(graph)):
        if stage in wanted:
            wanted.update(graph[stage])
    return {stage: needs for stage, needs in graph.items() if stage in wanted}


def stage_name(stage: str) -> str:
    """Return the name of a stage in dvc.yaml: train for train@retrieval."""
    return stage.partition("@")[0]
