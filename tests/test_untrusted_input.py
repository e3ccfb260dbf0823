"""Nothing in the project loads pickles or runs a shell; the commands forbid MLflow to load pickles."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from params_file import write_params

from flows.backfill import backfill
from flows.graph import GraphError, select
from flows.inbox import inbox
from flows.overrides import check_overrides
from flows.parameters import ParameterError
from flows.pipeline import pipeline
from flows.promotion import promote, rollback
from flows.retrain import retrain
from flows.study import study
from flows.supervisor import environment

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("src", "flows", "scripts") for path in (REPOSITORY / folder).rglob("*.py"))
LOADERS = {"load", "loads", "Unpickler", "read_pickle"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Messages between processes of one command, and an unpickler that refuses everything but arrays.
ALLOWED = {"src/clipbert/process_pool.py": "pickle.loads", "src/clipbert/model/weights/read_checkpoint.py": "Unpickler"}
HOSTILE = ["; touch x", "$(touch x)", "`touch x`", "--force", "../..", "train; touch x", "train@../..", "x\n", ""]


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """The dotted name of every call in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.unparse(given.value) for given in call.keywords if given.arg == name), None)


def test_no_pickle_is_loaded() -> None:
    found = []
    for path in SOURCES:
        name = path.relative_to(REPOSITORY).as_posix()
        for function, call in calls(path):
            module, _, last = function.rpartition(".")
            if module == "torch" and last == "load":
                bad = keyword(call, "weights_only") != "True"
            elif module in ("np", "numpy") and last == "load":
                bad = keyword(call, "allow_pickle") == "True"
            else:
                bad = (module in PICKLES and last in LOADERS) or last in ("read_pickle", "Unpickler")
            if bad and ALLOWED.get(name) not in (function, last):
                found.append(f"{name}:{call.lineno} {function}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("Unpickler" in ast.unparse(base) for base in node.bases):
                assert name in ALLOWED, f"{name}: {node.name}"
    assert found == []


def test_no_command_goes_through_a_shell() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{call.lineno} {function}"
        for path in SOURCES
        for function, call in calls(path)
        if function in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput")
        or function.endswith("create_subprocess_shell")
        or keyword(call, "shell") not in (None, "False")
    ]
    assert found == []


@pytest.mark.parametrize("stage", HOSTILE)
def test_a_stage_from_the_run_form_is_one_of_the_graph_or_refused(stage: str) -> None:
    graph = {"ingest": (), "train@retrieval": ("ingest",)}
    with pytest.raises(GraphError, match="has no such stage"):
        select(graph, [stage])


FLOWS = [backfill, inbox, pipeline, promote, retrain, rollback, study]
# Each parameter of a flow that is or contains text, with a value made of a text.
TEXT_PARAMETERS: dict[str, Callable[[str], Any]] = {
    "grid": lambda text: text,
    "root": lambda text: f"../{text}",
    "task": lambda text: text,
    "tasks": lambda text: [text],
}
# Checked by select and by check_overrides, which have tests of their own; names of stages that get a tag.
OTHER_TEXTS = {"stages", "overrides", "gpu_stages"}


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_hostile_text_in_a_parameter_of_a_flow_is_refused(
    flow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write_params(project)
    monkeypatch.setenv("CLIPBERT_ROOT", str(project))
    monkeypatch.chdir(project)
    before = sorted(tmp_path.rglob("*"))
    texts = {name for name, kind in get_type_hints(flow.fn).items() if name != "return" and "str" in str(kind)}
    assert texts <= TEXT_PARAMETERS.keys() | OTHER_TEXTS, "a new parameter with text: check it, and add it here"
    needed = {"task": "retrieval"} if "task" in texts else {}
    for name in texts - OTHER_TEXTS:
        for text in filter(None, HOSTILE):
            state = flow.fn(**needed | {name: TEXT_PARAMETERS[name](text)})
            assert state.is_failed(), (name, text)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_in_a_changed_parameter_is_refused(text: str, tmp_path: Path) -> None:
    write_params(tmp_path)
    for changes in ({text: 1}, {"model.text": text or "../.."}, {"tasks_run": [text]}):
        with pytest.raises(ParameterError, match="overrides"):
            check_overrides(tmp_path, changes)


def test_flows_and_their_commands_forbid_mlflow_to_load_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    assert environment()["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.slow
def test_the_command_line_forbids_it_whatever_the_environment_has(tmp_path: Path) -> None:
    code = (
        "import os, sys; from clipbert.cli import main\n"
        "main.app = lambda **_: print(os.environ['MLFLOW_ALLOW_PICKLE_DESERIALIZATION'])\n"
        "main.main()"
    )
    variables = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "false"), done.stderr
