import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from params_file import write_params
from prefect_server import Prefect

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
    return project


def answer(prefect: Prefect, run: str, **said: Any) -> None:
    prefect.wait(run, "PAUSED")
    prefect.call("POST", f"/flow_runs/{run}/resume", {"run_input": said})


def test_a_candidate_is_promoted_after_a_persons_yes_and_a_first_champion_cannot_be_rolled_back(
    prefect: Prefect, registered: Path
) -> None:
    run = prefect.start(PROMOTE, registered, task="retrieval", approve=True)
    prefect.wait(run, "PAUSED")
    shown = prefect.artifacts(run)["clipbert-candidate-retrieval"]
    assert "# Promote clipbert-retrieval version 1?" in shown
    assert "| retrieval/r1 | 66.7 |" in shown
    assert not (registered / "artifacts/promotions").exists()
    answer(prefect, run, approved=True, note="looks right")
    end = prefect.wait(run)
    assert (end["type"], end["name"]) == ("COMPLETED", "Promoted")
    decision = json.loads((registered / "artifacts/promotions/retrieval.json").read_text())
    assert end["message"] == decision["reason"]
    report = prefect.artifacts(run)["clipbert-decision-retrieval"]
    assert report.startswith("# retrieval: Promoted")
    assert "| champion | 1 |" in report

    back = prefect.start(ROLLBACK, registered, task="retrieval")
    end = prefect.wait(back)
    assert end["type"] == "FAILED"
    assert "version 1 is the champion, and there is no previous champion to roll back to" in end["message"]


def test_a_persons_no_changes_nothing(prefect: Prefect, project: Path) -> None:
    run = prefect.start(PROMOTE, project, task="open_qa", approve=True)
    answer(prefect, run, approved=False, note="not before Monday")
    end = prefect.wait(run)
    assert (end["type"], end["name"], end["message"]) == ("COMPLETED", "Declined", "not before Monday")
    assert not (project / "artifacts").exists()
