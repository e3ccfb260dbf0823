"""Every part of the GPU kit at tiny sizes on a CPU, in a process without pydantic, decoders, stores and drivers."""

import json
import math
from pathlib import Path

import pytest
from bare_python import run_bare

from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.project import open_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# One process for all parts: imports take longer than the parts.
RUN = """
import json, runpy, sys
import torch
torch.set_num_threads(1)
for name, words in json.loads(sys.argv[1]).items():
    print("part", name, flush=True)
    sys.argv = words
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        assert not error.code, error
missing = ("pydantic", "av", "decord", "mlflow", "prefect", "dvc", "great_expectations", "typer.testing")
assert not [name for name in missing if name in sys.modules]
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The result files of all parts."""
    work = tmp_path_factory.mktemp("kit")
    project, _ = open_project(work, tiny=True)
    found = {part.name: work / f"{part.name}.json" for part in PARTS}
    commands = {}
    for part in PARTS:
        places = {"work": work, "project": project.root, "json": found[part.name]}
        commands[part.name] = [word.format_map(places) for word in part.dry or part.command]
    run_bare(RUN, json.dumps(commands))
    return found


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_runs_without_a_gpu(results: dict[str, Path], part: object) -> None:
    measures = part.measures(json.loads(results[part.name].read_text()))  # type: ignore[attr-defined]
    assert measures
    assert all(math.isfinite(measure.value) for measure in measures)
    assert len({measure.what for measure in measures}) == len(measures)


def test_ways_start_with_the_same_loss(results: dict[str, Path]) -> None:
    ways = json.loads(results["train_step"].read_text())["ways"]
    losses = {name: row["loss_at_the_start"] for name, row in ways.items()}
    assert set(losses) == {"plain", "bf16"}
    assert losses["bf16"] == pytest.approx(losses["plain"], abs=5e-3)


def test_training_goes_on_end_to_end_from_what_was_trained(results: dict[str, Path]) -> None:
    found = json.loads(results["small"].read_text())
    assert found["data"] == "drawn pictures"
    frozen, whole = found["rows"]["small"], found["rows"]["small end to end"]
    assert frozen["frames"] == 40 * 4
    assert "frames" not in whole
    assert (frozen["steps"], whole["steps"]) == (3, 2)
    assert 0 <= whole["val"]["r1"] <= 100
