"""The programs behind `make ui` keep the passwords that they are given to themselves."""

import contextlib
import stat
from pathlib import Path

import psutil
import pytest
from prefect_server import wait_until

from flows.servers import ServerError, Servers, free_port, is_responding
from flows.supervisor import Supervisor

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

SECRET = "planted-secret"


def command_lines(word: str) -> list[str]:
    """What any user of the machine sees, as `ps` does, of this process's descendants; `word` is in one of them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    assert any(word in line for line in found)
    return found


def test_the_password_of_the_store_is_in_no_command_line_and_logs_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite ignores what it does not know in an address, so this is a store that works and has a password.
    database = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{database}?uri=true&password={SECRET}")
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "MLflow.log").write_text("an older log that others can read")
    with Supervisor(tmp_path) as supervisor:
        servers = Servers(tmp_path, supervisor, logs, "p" * 40)
        address = servers.mlflow(free_port())
        seen = command_lines("mlflow")
        wait_until(lambda: is_responding(f"{address}/health"))
        seen += command_lines("mlflow")
        log = logs / "MLflow.log"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        with log.open("a") as opened:
            opened.write(f"connecting to postgresql://ada:{SECRET}@db/x\nthe password {SECRET} was refused\n")
        assert "postgresql://***@db/x" in servers.log_tail("MLflow")
        assert SECRET not in servers.log_tail("MLflow")
    assert not [line for line in seen if SECRET in line]
    assert database.exists()


def test_a_store_that_fails_is_reported_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"nosuchdatabase://ada:{SECRET}@db.example/x")
    with Supervisor(tmp_path) as supervisor:
        servers = Servers(tmp_path, supervisor, tmp_path, "p" * 40)
        address = servers.mlflow(free_port())
        with pytest.raises(ServerError, match="MLflow ended with exit code") as caught:
            servers.wait_until_ready("MLflow", lambda: is_responding(f"{address}/health"))
    assert "nosuchdatabase" in str(caught.value)
    assert SECRET not in str(caught.value)
