"""docs/operate.md from the first command to the last click, with real servers and a real browser.

The pictures of the page are those in the test's temporary folder, as WebP.
"""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import find_chromium
from dvc_project import run
from operated_pages import operated_pages
from operated_project import Terminal, clone
from prefect_server import Prefect, running_servers, wait_until

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here"),
]

RETRAIN, PROMOTE, ROLLBACK = "clipbert-retrain/retrain", "clipbert-promote/promote", "clipbert-rollback/rollback"
RUN_S = 1200  # a busy machine trains slowly
BROKEN = "videos/new1_broken_truncated.mp4"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def runs_of(servers: Prefect, deployment: str) -> list[dict[str, Any]]:
    """Return the runs of a deployment that have started, newest first."""
    found = servers.call("GET", f"/deployments/name/{deployment}")
    wanted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PAUSED", "COMPLETED", "FAILED", "CRASHED"]}}}}
    wanted |= {"deployments": {"id": {"any_": [found["id"]]}}, "sort": "START_TIME_DESC"}
    return list(servers.call("POST", "/flow_runs/filter", wanted))


def champion(servers: Prefect) -> str:
    """Return the version that MLflow's server names champion."""
    address = f"{servers.mlflow}/api/2.0/mlflow/registered-models/alias"
    answer = httpx.get(
        address, params={"name": "clipbert-retrieval", "alias": "champion"}, headers=signed_in(servers), timeout=30
    )
    return str(answer.raise_for_status().json()["model_version"]["version"])


def signed_in(servers: Prefect) -> dict[str, str]:
    return {"Authorization": f"Bearer {servers.password}"}


def assert_first_champion(project: Path, terminal: Terminal) -> None:
    terminal.type("clipbert sample-data")
    terminal.type("sed -i -e 's/^tasks_run")
    terminal.type("dvc add data")
    printed = terminal.type("python -m flows.retrain")
    assert "retrieval: promoted" in printed.splitlines()[-1]
    assert "none -> 1  promoted 1" in terminal.type("clipbert history")
    assert "min_steps: 150" in (project / "params.yaml").read_text(), "the override is for one run"
    terminal.type("sed -i 's/approval: auto")


def assert_data(project: Path, terminal: Terminal) -> None:
    """The data: merged and committed, and the bad file set aside."""
    captions = [json.loads(line) for line in (project / "data/captions.jsonl").read_text().splitlines()]
    arrived = [caption for caption in captions if caption["media"].startswith("videos/new1_")]
    assert len({caption["media"] for caption in arrived}) == 40
    assert {caption["split"] for caption in arrived} == {"train", "val", "test"}
    assert not [path for path in (project / "inbox").rglob("*") if path.is_file()]
    (reasons,) = (project / "refused").glob("*/reasons.json")
    assert {reason["code"] for reason in read(reasons)} == {"unreadable", "media"}
    subject = run("git", "log", "-1", "--format=%s", "--name-only", cwd=project).stdout.split("\n")
    assert subject[:3] == ["Add 40 media files and 80 texts from the inbox", "", "data.dvc"]


def assert_retrained(servers: Prefect, run_id: str, end: dict[str, Any]) -> None:
    """The stages, the experiment, the version and the decision."""
    project = servers.project
    tasks = servers.tasks(run_id)
    names = {name: task["state"]["name"] for name, task in tasks.items()}
    assert names["clipbert inbox"] == names["git commit"] == names["train@retrieval"] == "Completed"
    assert names["data.dvc"] == "Unchanged"
    assert "dvc pull" not in names, "the project has no remote"
    assert "gpu" in tasks["train@retrieval"]["tags"]
    experiments = run("dvc", "exp", "list", "--all-commits", "--name-only", cwd=project).stdout.split()
    artifacts = servers.artifacts(run_id)
    (experiment,) = [name for name in experiments if f"`{name}`" in artifacts["clipbert-retrain"]]
    assert read(project / "artifacts/runs/retrieval.json")["run_name"].startswith(f"{experiment}: retrieval")
    assert read(project / "artifacts/releases/retrieval.json")["version"] == "2"
    decision = read(project / "artifacts/promotions/retrieval.json")
    assert (end["name"], decision["version"], decision["decision"]) == ("AwaitingApproval", "2", "pending")
    assert decision["verdict"]["champion"]["version"] == "1"
    assert decision["reason"] in artifacts["clipbert-retrain"]
    assert f"| {BROKEN} |".replace("_", "\\_") in artifacts["clipbert-inbox"]
    wait_until(lambda: "merged into data/: 40 media" in "\n".join(servers.logs(run_id)), 30)


def assert_comparison(servers: Prefect, request: str) -> None:
    """The comparison that the form links to compares both versions on the test items of today."""
    link = r"\[Items won and lost, with frames\]\(\S+/runs/([0-9a-f]{32})/artifacts/comparison.html\)"
    match = re.search(link, request)
    assert match, request
    answer = httpx.get(
        f"{servers.mlflow}/get-artifact",
        params={"run_uuid": match[1], "path": "comparison.html"},
        headers=signed_in(servers),
        timeout=30,
    )
    page = answer.raise_for_status().text
    assert "models:/clipbert-retrieval/2 is better than models:/clipbert-retrieval/1" in page
    assert "data:image/" in page, "the items are shown with frames"


def test_a_scheduled_retraining_is_approved_promoted_and_rolled_back_as_the_page_says(tmp_path: Path) -> None:
    project = clone(tmp_path / "clipbert")
    home = tmp_path / "servers"
    home.mkdir()
    terminal = Terminal(project, tmp_path / "prefect")
    assert_first_champion(project, terminal)
    with running_servers(project, home) as servers, operated_pages(servers, tmp_path) as pages:
        terminal.type("python -m scripts.new_videos")
        port = servers.url.removesuffix("/api").rpartition(":")[2]
        terminal = Terminal(project, home / "home", CLIPBERT_PREFECT_PORT=port)
        terminal.type('eval "$(python -m flows.ui --env)"')
        pages.deployment(RETRAIN)
        pages.take("schedule", 560)

        # by its schedule: new data, a new model, and a question
        (scheduled,) = wait_until(lambda: runs_of(servers, RETRAIN))
        end = servers.wait(scheduled["id"], seconds=RUN_S)
        assert end["type"] == "COMPLETED", end
        assert scheduled["auto_scheduled"]
        assert scheduled["created_by"]["type"] == "SCHEDULE"
        assert_data(project, terminal)
        assert_retrained(servers, scheduled["id"], end)
        pages.artifact(scheduled["id"], "clipbert-inbox", "media and 80 texts merged")
        pages.take("inbox", 560)
        pages.run(scheduled["id"], "AwaitingApproval")
        pages.take("run", 900)

        # a person reads, compares and approves
        asked = wait_until(lambda: runs_of(servers, PROMOTE))[0]["id"]
        servers.wait(asked, "PAUSED", seconds=RUN_S)
        assert champion(servers) == "1"
        pages.open_form(asked)
        assert_comparison(servers, servers.artifacts(asked)["clipbert-candidate-retrieval"])
        pages.take_comparison("comparison")
        pages.fill("Ann", "better on the new videos too")
        pages.take_form("form")
        pages.submit()
        end = servers.wait(asked, seconds=RUN_S)
        assert (end["type"], end["name"]) == ("COMPLETED", "Promoted")
        assert end["message"].endswith("approved by Ann: better on the new videos too")
        assert champion(servers) == "2"
        pages.artifact(asked, "clipbert-decision-retrieval", "Promoted")
        pages.take("promoted", 560)

        # and takes it back
        pages.start(ROLLBACK)
        back = wait_until(lambda: runs_of(servers, ROLLBACK))[0]["id"]
        end = servers.wait(back, seconds=RUN_S)
        assert (end["type"], end["name"]) == ("COMPLETED", "Rolled back")
        assert champion(servers) == "1"
        pages.run(back, "Rolled back")
        pages.take("rollback", 420)
    history = terminal.type("clipbert history")
    made = [line.split("  ")[3:5] for line in history.splitlines()]
    assert [one for one in made if one != ["1 -> 1", "pending 2"]] == [
        ["none -> 1", "promoted 1"],
        ["1 -> 2", "promoted 2"],
        ["2 -> 1", "rolled back 2"],
    ]
