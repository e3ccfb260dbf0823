"""A retraining that its schedule starts: new data, the smallest model, its registration and the decision."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dvc_project import commit, make_project, run, set_params
from prefect_server import Prefect, wait_until

from clipbert.data.synthetic.sample_set import make_sample_data

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(1200)]

REPOSITORY = Path(__file__).parents[2]
NAME = "/deployments/name/clipbert-retrain/retrain"


@pytest.fixture(scope="module")
def retraining(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed project without any model, and a new video, a broken one and their rows in its inbox."""
    root = make_project(tmp_path_factory.mktemp("retraining") / "project")
    set_params(root, {"tasks_run": ["retrieval"], "inbox.stable_s": 0.0})
    (root / "flows").symlink_to(REPOSITORY / "flows")
    if (REPOSITORY / "mlflow/promotion.yaml").is_file():
        (root / "mlflow/promotion.yaml").write_text((REPOSITORY / "mlflow/promotion.yaml").read_text())
    (root / ".gitignore").write_text((root / ".gitignore").read_text() + "/flows\n")
    make_sample_data(root / "data", train=16, val=6, test=6)
    run("dvc", "add", "-q", "data", cwd=root)
    commit(root, "Start")
    more = root.parent / "more"
    make_sample_data(more, seed=9, train=1, val=1, test=1)
    (root / "inbox/videos").mkdir(parents=True)
    captions = [json.loads(line) for line in (more / "captions.jsonl").read_text().splitlines()]
    media = captions[0]["media"]
    (root / "inbox/videos/arrived.mp4").write_bytes((more / media).read_bytes())
    (root / "inbox/videos/broken.mp4").write_bytes(b"no video")
    rows = [{"id": "new-1", "media": "videos/arrived.mp4", "text": captions[0]["text"]}]
    rows.append({"id": "new-2", "media": "videos/broken.mp4", "text": "nothing to see"})
    (root / "inbox/captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_a_schedule_starts_a_retraining_that_finds_new_data_trains_registers_and_decides(
    prefect: Prefect, retraining: Path
) -> None:
    deployment = prefect.call("GET", NAME)
    path = f"/deployments/{deployment['id']}"
    variables = {"env": {"CLIPBERT_ROOT": str(retraining), "OMP_NUM_THREADS": "1"}}
    prefect.call("PATCH", path, {"job_variables": variables})
    soon = (datetime.now(UTC) + timedelta(seconds=10)).isoformat()
    interval = {"schedule": {"interval": 3600, "anchor_date": soon}, "active": True}
    (schedule,) = prefect.call("POST", f"{path}/schedules", [interval])
    wanted = {"deployments": {"name": {"any_": ["retrain"]}}, "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    try:
        (run_id, *_) = wait_until(lambda: [found["id"] for found in prefect.call("POST", "/flow_runs/filter", wanted)])
    finally:
        prefect.call("DELETE", f"{path}/schedules/{schedule['id']}")
    end = prefect.wait(run_id, seconds=1080)
    prefect.call("PATCH", path, {"job_variables": deployment["job_variables"]})
    assert end["type"] == "COMPLETED", end
    assert prefect.call("GET", f"/flow_runs/{run_id}")["created_by"]["type"] == "SCHEDULE"

    # the data: merged, committed, and the bad file set aside
    captions = [json.loads(line) for line in (retraining / "data/captions.jsonl").read_text().splitlines()]
    assert captions[-1]["media"] == "videos/arrived.mp4"
    assert captions[-1]["split"] in ("train", "val", "test")
    assert not [path for path in (retraining / "inbox").rglob("*") if path.is_file()]
    (reasons,) = (retraining / "refused").glob("*/reasons.json")
    assert {reason["code"] for reason in json.loads(reasons.read_text())} == {"unreadable", "media"}
    subject = run("git", "log", "-1", "--format=%s", "--name-only", cwd=retraining).stdout.split("\n")
    assert subject[:3] == ["Add 1 media file and 1 text from the inbox", "", "data.dvc"]

    # the stages, the experiment, the version and the decision
    tasks = prefect.tasks(run_id)
    names = {name: task["state"]["name"] for name, task in tasks.items()}
    assert names["clipbert inbox"] == names["git commit"] == names["train@retrieval"] == "Completed"
    assert names["data.dvc"] == "Unchanged"
    assert "dvc pull" not in names, "the project has no remote"
    assert "gpu" in tasks["train@retrieval"]["tags"]
    experiments = run("dvc", "exp", "list", "--name-only", cwd=retraining).stdout.split()
    assert len(experiments) == 1
    assert experiments[0].startswith("retrain-")
    mlflow_run = json.loads((retraining / "artifacts/runs/retrieval.json").read_text())
    assert mlflow_run["run_name"].startswith(f"{experiments[0]}: retrieval")
    assert json.loads((retraining / "artifacts/releases/retrieval.json").read_text())["version"] == "1"
    decision = json.loads((retraining / "artifacts/promotions/retrieval.json").read_text())
    assert decision["version"] == "1"
    expected = {"promoted": "Promoted", "rejected": "Rejected", "pending": "AwaitingApproval"}
    assert end["name"] == expected[decision["decision"]]
    artifacts = prefect.artifacts(run_id)
    assert decision["reason"] in artifacts["clipbert-retrain"]
    assert f"`{experiments[0]}`" in artifacts["clipbert-retrain"]
    assert "| videos/broken.mp4 |" in artifacts["clipbert-inbox"]
    wait_until(lambda: "merged into data/: 1 media" in "\n".join(prefect.logs(run_id)), 30)
