import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from params_file import write_params
from policies import write_policy
from prefect_server import Prefect, wait_until

pytestmark = pytest.mark.pipeline

PROMOTE, ROLLBACK = "clipbert-promote/promote", "clipbert-rollback/rollback"


@pytest.fixture
def registered(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose registry has a first candidate for retrieval that is far above chance."""
    from clipbert.config.schema import Params
    from clipbert.evaluation.conditions import conditions
    from clipbert.evaluation.predictions_file import write_predictions
    from clipbert.model import ClipBertConfig, ClipBertForRetrieval, ClipBertProcessor
    from clipbert.release.registry import register

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_params(project)
    tokenizer = ClipBertProcessor.train_tokenizer(["a red square moves left", "a blue one"], 200, min_frequency=1)
    config = ClipBertConfig.tiny(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, image_size=32)
    model = project / "artifacts/models/retrieval"
    ClipBertForRetrieval(config).save_pretrained(model)
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained(model)
    score = np.tile([1.0, 1.0, 0.0], 20)
    items = pd.DataFrame({"item_id": [f"t{number}" for number in range(60)], "score": score, "chance": 0.01})
    items = items.assign(blank_frames_score=0.0)
    items.attrs["evaluation"] = conditions("retrieval", Params().tasks.retrieval, Params().evaluate, Params().frames)
    files = {name: project / f"artifacts/{name}/retrieval.json" for name in ("runs", "metrics", "releases")}
    for path in files.values():
        path.parent.mkdir(parents=True)
    files["runs"].write_text(json.dumps({"task": "retrieval", "run_id": "0" * 32}))
    metrics = {"retrieval/r1": 66.7}
    files["metrics"].write_text(json.dumps(metrics))
    table = project / "artifacts/predictions.parquet"
    write_predictions(table, items, metrics)
    from small_releases import register_sections

    sections = register_sections("retrieval", Params())
    register(project, "retrieval", model, files["runs"], files["metrics"], table, files["releases"], **sections)
    write_policy(project, approval="person")
    return project


def form(prefect: Prefect, run: str) -> dict[str, Any]:
    """Wait until the run is paused; return the schema and the text of its form, as the UI reads them."""
    state = prefect.wait(run, "PAUSED")
    keyset = state["state_details"]["run_input_keyset"]
    return {name: prefect.call("GET", f"/flow_runs/{run}/input/{keyset[name]}") for name in ("schema", "description")}


def answer(prefect: Prefect, run: str, **said: Any) -> None:
    prefect.wait(run, "PAUSED")
    prefect.call("POST", f"/flow_runs/{run}/resume", {"run_input": said})


def champion(root: Path) -> str | None:
    from clipbert.release.aliases import aliases
    from clipbert.release.connection import open_store

    return aliases(open_store(root), "clipbert-retrieval").get("champion")


def test_a_candidate_is_promoted_after_a_persons_yes_and_a_first_champion_cannot_be_rolled_back(
    prefect: Prefect, registered: Path
) -> None:
    """The form is rejected with a wrong answer, and a hostile note is text and nothing else."""
    run = prefect.start(PROMOTE, registered, task="retrieval")
    shown = form(prefect, run)
    assert "# Promote clipbert-retrieval version 1?" in shown["description"]
    assert "| ✓ passed | R@1 | +65.7 points on 60 test items, 95% interval +5" in shown["description"]
    assert "[Verdict with every number](http://" in shown["description"]
    assert prefect.artifacts(run)["clipbert-candidate-retrieval"] == shown["description"]
    assert shown["schema"]["required"] == ["decision", "name"]
    assert champion(registered) is None
    for wrong in ({"decision": "maybe", "name": "Ann"}, {"decision": "approve", "name": ""}):
        refused = prefect.call("POST", f"/flow_runs/{run}/resume", {"run_input": wrong})
        assert refused["status"] == "REJECT"
    note = "--decline; touch pwned $(touch pwned) `touch pwned` ../.."
    answer(prefect, run, decision="approve", name="Ann", note=note)
    end = prefect.wait(run)
    assert (end["type"], end["name"]) == ("COMPLETED", "Promoted")
    decision = json.loads((registered / "artifacts/promotions/retrieval.json").read_text())
    assert (decision["champion"], decision["approved_by"], decision["note"]) == ("1", "Ann", note)
    assert champion(registered) == "1"
    assert not list(registered.rglob("pwned"))
    assert end["message"] == decision["reason"]
    report = prefect.artifacts(run)["clipbert-decision-retrieval"]
    assert report.startswith("# retrieval: Promoted")
    assert "| champion | 1 |" in report

    again = prefect.start(PROMOTE, registered, task="retrieval", approve=True)
    end = prefect.wait(again)
    assert (end["type"], end["name"]) == ("COMPLETED", "Unchanged")  # no form for what is the champion

    back = prefect.start(ROLLBACK, registered, task="retrieval")
    end = prefect.wait(back)
    assert end["type"] == "FAILED"
    assert "version 1 is the champion, and there is no previous champion to roll back to" in end["message"]


def test_a_no_and_no_answer_change_nothing(prefect: Prefect, registered: Path) -> None:
    late = prefect.start(PROMOTE, registered, task="retrieval", approval_timeout_s=2)
    end = wait_until(lambda: state if (state := prefect.state(late))["name"] == "Expired" else None)
    assert end["type"] == "COMPLETED"
    assert "nothing was changed, there is still no champion. Version 1 still waits" in end["message"]

    run = prefect.start(PROMOTE, registered, task="retrieval")
    answer(prefect, run, decision="decline", name="Ann", note="not before Monday")
    end = prefect.wait(run)
    assert (end["type"], end["name"]) == ("COMPLETED", "Declined")
    assert end["message"].endswith("declined by Ann: not before Monday")
    assert champion(registered) is None


def test_a_project_without_a_policy_names_the_file(prefect: Prefect, project: Path) -> None:
    write_params(project)
    end = prefect.wait(prefect.start(PROMOTE, project, task="open_qa", approve=True))
    assert end["type"] == "FAILED"
    assert "mlflow/promotion.yaml: not found" in end["message"]
