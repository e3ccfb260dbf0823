"""Grid files: what they give, and the message for each mistake."""

from pathlib import Path
from typing import Any

import pytest
from study_project import write_grid

from clipbert.config.help import complete_file
from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.study.grid import read_grid
from clipbert.study.plan import make_plan

REPOSITORY = Path(__file__).parents[2]
RECIPES = REPOSITORY / "recipes"


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(complete_file(Params()))
    return path


def test_values_are_crossed_and_equal_settings_are_trained_once(tmp_path: Path, params: Path) -> None:
    axes = {
        "clips and frames": {"model.clips": [1, 2], "model.frames_per_clip": [1, 2]},
        "fusion": {
            "mean of 2": {"model.frames_per_clip": 2},
            "attention over 2": {"model": {"frames_per_clip": 2, "frame_fusion": "attention"}},
        },
    }
    base = {"model.clips": 1, "model.frames_per_clip": 1}
    grid = read_grid(write_grid(tmp_path / "g.yaml", axes=axes, params=base, seeds=[3, 4]), RECIPES)
    plan = make_plan(grid, params, RECIPES)
    assert [setting.label for setting in plan.settings] == [
        "base",
        "frames_per_clip=2",
        "clips=2",
        "clips=2, frames_per_clip=2",
        "frames_per_clip=2, frame_fusion=attention",
    ]
    crossed, fusion = plan.axes
    assert [label for label, _ in crossed.settings] == [
        "clips=1, frames_per_clip=1",
        "clips=1, frames_per_clip=2",
        "clips=2, frames_per_clip=1",
        "clips=2, frames_per_clip=2",
    ]
    assert fusion.settings == (
        ("base", "base"),
        ("mean of 2", "frames_per_clip=2"),
        ("attention over 2", "frames_per_clip=2, frame_fusion=attention"),
    )
    points = list(plan.points)
    assert len(points) == 10
    assert points[6].name == "g-frames_per_clip-2-seed4"
    assert {"seed=4", "train.budget=20steps", "tasks_run=[retrieval]"} < set(points[6].overrides)


def test_the_evaluation_trains_nothing_again_and_includes_the_base(tmp_path: Path, params: Path) -> None:
    grid = read_grid(write_grid(tmp_path / "g.yaml", evaluate={"clips": [8, 4], "score_aggregation": ["max"]}), RECIPES)
    plan = make_plan(grid, params, RECIPES)
    assert plan.clips == (2, 4, 8)
    assert plan.base_clips == 2
    assert len(list(plan.points)) == 2


def test_a_recipe_is_below_the_parameters(tmp_path: Path, params: Path) -> None:
    path = write_grid(
        tmp_path / "g.yaml", recipe="small", params={"train.lr": 0.001}, axes={"a": {"train.warmup_fraction": [0.2]}}
    )
    (base, _) = make_plan(read_grid(path, RECIPES), params, RECIPES).settings
    assert base.params["model.preset"] == "small"
    assert base.params["train.lr"] == 0.001


@pytest.mark.parametrize("path", sorted((RECIPES / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_grids_of_the_repository_are_valid(path: Path) -> None:
    plan = make_plan(read_grid(path, RECIPES), REPOSITORY / "params.yaml", RECIPES)
    assert len(plan.settings) > 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": "retreival"}, "task: retreival"),
        ({"task": None}, "task: missing; a grid needs task, budget, seeds, axes"),
        ({"budgets": "5 min"}, "budgets: unknown field; expected task, recipe, budget"),
        ({"recipe": "none"}, "recipe = 'none': expected one of"),
        ({"budget": "20 epochs"}, "budget = '20 epochs': expected a number above 0 and one of s, min, h, steps"),
        ({"budget": 20}, "budget = 20: expected"),
        ({"seeds": 3}, "seeds = 3: expected a list of integers"),
        ({"seeds": [1, 1]}, "seeds = [1, 1]: a seed occurs twice"),
        ({"seeds": [True]}, "seeds = [True]: expected a list of integers"),
        ({"axes": {}}, "axes: expected named axes"),
        ({"axes": {"size": [64]}}, "axes.size: expected parameters with lists of values"),
        ({"axes": {"size": {"model.image_size": 64}}}, "axes.size.model.image_size = 64: expected a list of values"),
        ({"axes": {"size": {"model.image_size": [64, 64]}}}, "a value occurs twice"),
        ({"axes": {"seed": {"seed": [1, 2]}}}, "axes.seed.seed: every point has the same value; `seeds` sets it"),
        (
            {"axes": {"b": {"long": {"train.budget": "9 s"}}}},
            "axes.b.long.train.budget: every point has the same value",
        ),
        ({"axes": {"c": {"evaluate.clips": [1]}}}, "`evaluate.clips`, which trains nothing again"),
        ({"evaluate": {"clips": [0]}}, "evaluate.clips = [0]: expected a list of integers from 1 to 64"),
        (
            {"evaluate": {"score_aggregation": ["median"]}},
            "evaluate.score_aggregation = ['median']: expected a list of lse",
        ),
        ({"evaluate": {"frames": [1]}}, "evaluate: expected the lists clips and score_aggregation"),
        (
            {"axes": {"size": {"model.image_sise": [64]}}},
            "axes.size: model.image_sise=64: model.image_sise: unknown parameter",
        ),
        (
            {"axes": {"size": {"model.image_size": [7]}}},
            "axes.size: model.image_size=7: model.image_size = 7: expected",
        ),
        ({"params": {"train.lr": "fast"}}, "params: train.lr=\"fast\": train.lr = 'fast': expected"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_mistake_names_the_file_the_field_and_what_was_expected(
    changes: dict[str, Any], expected: str, tmp_path: Path, params: Path
) -> None:
    path = write_grid(tmp_path / "g.yaml", **changes)
    with pytest.raises(ClipBertError) as caught:
        make_plan(read_grid(path, RECIPES), params, RECIPES)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_not_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match=r"no such grid file.*recipes/study/"):
        read_grid(tmp_path / "none.yaml", RECIPES)
    (tmp_path / "bad.yaml").write_text("axes: [")
    with pytest.raises(ClipBertError, match=r"bad.yaml: not valid YAML"):
        read_grid(tmp_path / "bad.yaml", RECIPES)
    with pytest.raises(ClipBertError, match="the name of the study"):
        read_grid(write_grid(tmp_path / "my grid.yaml"), RECIPES)
