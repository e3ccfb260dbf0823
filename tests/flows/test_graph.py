from pathlib import Path

import pytest

from flows.graph import GraphError, parse_dot, read_graph, select

GRAPH = parse_dot(
    """
    strict digraph {
    "evaluate@b";
    "prepare" -> "train@a";
    "prepare" -> "train@b";
    "data.dvc" -> "prepare";
    "train@b" -> "evaluate@b";
    }
    """
)


def test_every_stage_stands_after_what_it_needs() -> None:
    order = list(GRAPH)
    assert sorted(order) == ["data.dvc", "evaluate@b", "prepare", "train@a", "train@b"]
    for stage, needs in GRAPH.items():
        assert all(order.index(need) < order.index(stage) for need in needs)
    assert GRAPH["evaluate@b"] == ("train@b",)
    assert GRAPH["data.dvc"] == ()


def test_a_selection_holds_what_it_needs_and_nothing_else() -> None:
    assert list(select(GRAPH, ["train@b"])) == ["data.dvc", "prepare", "train@b"]
    assert set(select(GRAPH, ["train"])) == {"data.dvc", "prepare", "train@a", "train@b"}
    assert select(GRAPH, None) == GRAPH


def test_an_unknown_stage_is_named_with_the_nearest_and_all_there_are() -> None:
    with pytest.raises(GraphError, match=r"evaluat@b: .* no such stage. Did you mean evaluate@b\? There are:"):
        select(GRAPH, ["evaluat@b"])


def test_the_graph_is_dvcs_with_foreach_and_matrix_expanded(template: Path) -> None:
    graph = read_graph(template)
    assert graph["prepare"] == ("data.dvc",)
    assert graph["train@left"] == ("prepare",)
    assert graph["evaluate@left"] == ("train@left",)
    assert len(graph) == 5


def test_no_project_and_a_broken_one_are_named(tmp_path: Path, project: Path) -> None:
    with pytest.raises(GraphError, match=r"no dvc.yaml here. Start the flow in the project's folder"):
        read_graph(tmp_path)
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(GraphError, match=r"(?s)the stages cannot be read:.*'./dvc.yaml' is invalid"):
        read_graph(project)
