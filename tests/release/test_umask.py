"""What tracking writes below the project has the mode that the umask gives, group write too."""

import os

import pytest

from clipbert.release.connection import open_store
from clipbert.release.tracking import start_training_run


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_files_of_tracking_follow_the_umask(root, monkeypatch, umask):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (root / "mlflow" / "mlflow.db").unlink(missing_ok=True)
    (root / "mlflow" / "ledger.db").unlink(missing_ok=True)
    before = set(root.rglob("*"))
    old = os.umask(umask)
    try:
        open_store(root)
        with start_training_run(root, "retrieval", {"seed": 0}) as run:
            run.log_metrics({"loss": 1.0}, 1)
            outbox = [path for path in (root / "mlflow" / "outbox").rglob("*") if path.is_file()]
            modes = {path.name: path.stat().st_mode & 0o777 for path in outbox}
    finally:
        os.umask(old)
    made = [path for path in root.rglob("*") if path not in before and path.is_file()]
    modes |= {path.name: path.stat().st_mode & 0o777 for path in made}
    assert "mlflow.db" in modes
    assert len(modes) > 1
    assert {name: oct(mode) for name, mode in modes.items() if mode != 0o666 & ~umask} == {}
