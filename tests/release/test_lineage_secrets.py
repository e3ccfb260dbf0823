"""Secrets in the working tree of a project do not reach MLflow with the source of a model."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from clipbert.release.connection import open_store
from clipbert.release.lineage_record import require_lineage
from clipbert.release.stored_source import PARAMS, read_source_file

PLANTED = {
    "environment": "env1r-Planted-77",
    "file": "f1le-Planted-88",
    "params": "p4rams-Planted-99",
    "code": "c0de-Planted-11",
}


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.mark.slow
def test_secrets_of_the_working_tree_reach_no_artifact_tag_or_database(
    root: Path,
    release_embedded: Callable[..., object],
    predictions: Callable[..., pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", PLANTED["environment"])
    (root / ".gitignore").write_text("/mlflow/*\n/artifacts/\n/*.json\n/*.parquet\n")
    (root / "code.py").write_text("a = 1\n")
    (root / "params.yaml").write_text("seed: 0\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "code.py").write_text(f"a = 1\npassword = '{PLANTED['code']}'\n")
    (root / "other.py").write_text(f"value = '{PLANTED['environment']}'\n")
    (root / "plain.py").write_text("value = 1\n")
    (root / ".env").write_text(f"KEY={PLANTED['file']}\n")
    (root / "params.yaml").write_text(f"seed: 0\nframes:\n  media_url: s3://me:{PLANTED['params']}@bucket/data\n")
    release_embedded(0, predictions(30))
    store = open_store(root)
    (version,) = store.client.search_model_versions("name = 'clipbert-retrieval'")
    stored = require_lineage(store, version)
    assert set(stored.source.omitted) == {".env", "code.py", "other.py", "params.yaml"}
    assert stored.source.params_redacted
    content = read_source_file(store, stored.lineage.run_id, stored.lineage.source, PARAMS, None, "the version")
    assert b"s3://***@bucket/data" in content
    patch = read_source_file(
        store, stored.lineage.run_id, stored.lineage.source, "changes.patch", stored.source.patch, "the version"
    )
    assert b"plain.py" in patch
    kept = [path for path in (root / "mlflow").rglob("*") if path.is_file()]
    assert len(kept) > 10
    holders = {str(path) for path in kept for secret in PLANTED.values() if secret.encode() in path.read_bytes()}
    assert holders == set()
    printed = "".join(capfd.readouterr())
    assert [name for name, secret in PLANTED.items() if secret in printed] == []
