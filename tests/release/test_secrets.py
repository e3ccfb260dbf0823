"""A secret planted in every place is in nothing that the verbs print or store."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from mlflow_server import MlflowServer
from policies import write_policy

from clipbert import stages
from clipbert.config.load import load_params
from clipbert.config.promotion import load_policy
from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_json
from clipbert.project import Project
from clipbert.redact import RedactedStream
from clipbert.release.connection import open_store
from clipbert.release.delivery import sync
from clipbert.release.tracking import start_training_run
from clipbert.training.trainer import Trainer

SECRETS = {
    "media": "m3dia-Planted-1",
    "cache": "c4che-Planted-2",
    "set": "s3t-Planted-3",
    "environment": "env1r-Planted-4",
    "sqlite": "sql1te-Planted-5",
    "token": "t0ken-Planted-6",
}


def holders(folder: Path) -> dict[str, list[str]]:
    """The files below a folder that hold one of the secrets, in their bytes."""
    found: dict[str, list[str]] = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for name, secret in SECRETS.items():
            if secret.encode() in content:
                found.setdefault(name, []).append(str(path.relative_to(folder)))
    return found


def test_nothing_that_is_printed_or_stored_holds_a_secret(tiny_project, tmp_path, monkeypatch, capfd):
    root = tmp_path / "project"
    (root / "artifacts").mkdir(parents=True)
    for name in ("manifest", "frames"):
        shutil.copytree(tiny_project / "artifacts" / name, root / "artifacts" / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["environment"])
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRETS["token"])
    overrides = [
        f"frames.media_url=s3://AKID:{SECRETS['media']}@bucket/data?X-Amz-Signature={SECRETS['set']}",
        f"frames.cache_url=https://{SECRETS['cache']}@host/frames",
        "train.batch_size=8",
        "tasks.retrieval.epochs=1",
        "train.checkpoint_every_steps=1",
        "train.min_steps=0",
        *(f"model.{name}={value}" for name, value in {"hidden_size": 16, "num_hidden_layers": 1}.items()),
        *(f"model.{name}={value}" for name, value in {"num_attention_heads": 2, "image_size": 32}.items()),
    ]
    monkeypatch.setattr(sys, "argv", ["clipbert", "train", "--set", *overrides, SECRETS["environment"]])
    (root / "params.yaml").write_text("seed: 0\n")
    params = Params.model_validate(
        load_params(root / "params.yaml", overrides, complete=False).model_dump(by_alias=True)
    )
    project = Project(root)
    save = Trainer.save

    def interrupted(*arguments, **options):
        save(*arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", interrupted)
        with pytest.raises(SystemExit):
            stages.train(project, "retrieval", params)
    assert list((root / "artifacts" / "checkpoints" / "retrieval").glob("step-*"))
    assert holders(root) == {}
    for verb in (stages.train, stages.evaluate, stages.register):
        verb(project, "retrieval", params)
    write_policy(root)
    stages.promote(project, "retrieval", params, load_policy(root))
    assert holders(root) == {}
    run = open_store(root).client.search_runs(
        [open_store(root).client.get_experiment_by_name("clipbert-retrieval").experiment_id]
    )[0]
    assert run.data.params["frames.media_url"] == "s3://***@bucket/data?X-Amz-Signature=***"
    assert run.data.params["frames.cache_url"] == "https://***@host/frames"
    assert "train" in run.data.tags["clipbert.command"]
    card = (root / "artifacts" / "models" / "retrieval" / "README.md").read_text()
    assert "s3://***@bucket" in card
    printed = "".join(capfd.readouterr())
    assert [name for name, secret in SECRETS.items() if secret in printed] == []


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://127.0.0.1:9/db?password={SECRETS['sqlite']}",
        f"postgresql://{SECRETS['token']}@127.0.0.1:9/db",
        f"mysql+pymysql://me:a%40{SECRETS['token']}@127.0.0.1:9/db",
        f"http://{SECRETS['token']}:@127.0.0.1:9",
        f"http://127.0.0.1:9/?token={SECRETS['token']}",
        f"nonsense://{SECRETS['token']}@x",
    ],
)
def test_a_store_that_fails_does_not_tell_its_password(root, monkeypatch, uri, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ClipBertError) as caught:
        open_store(root)
    told = str(caught.value) + "".join(capfd.readouterr())
    assert [secret for secret in SECRETS.values() if secret in told] == []


@pytest.mark.slow
def test_a_server_with_credentials_in_its_address_that_is_away_for_a_while(
    root: Path, mortal_server: MlflowServer, monkeypatch, capfd
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mortal_server.address.replace("://", f"://me:{SECRETS['token']}@"))
    monkeypatch.setattr("clipbert.release.sender.FIRST_RETRY_S", 0.1)
    # As the command line does: MLflow itself prints the address of a run.
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, RedactedStream.wrap(getattr(sys, name)))
    params = {"frames.media_url": f"https://{SECRETS['media']}@host/x"}
    with start_training_run(root, "retrieval", params) as run:
        mortal_server.stop(signal.SIGKILL)
        run.log_metrics({"train/loss": 0.5}, 1)
    described = root / "artifacts" / "runs" / "retrieval.json"
    described.parent.mkdir(parents=True)
    write_json(described, run.describe())
    assert list((root / "mlflow" / "outbox").rglob("records.jsonl"))
    assert holders(root) == {}
    mortal_server.start()
    sync(root)
    metrics = open_store(root).client.get_run(run.run_id).data.metrics
    assert metrics["train/loss"] == 0.5
    assert "***@127.0.0.1" in json.loads(described.read_text())["tracking_uri"]
    assert holders(root) == holders(mortal_server.folder) == {}
    told = "".join(capfd.readouterr())
    assert "***@127.0.0.1" in told
    assert [name for name, secret in SECRETS.items() if secret in told] == []
