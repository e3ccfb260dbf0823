"""Requests to a server whose database is locked.

The statuses that Prefect answers after a minute of waiting come from a small server of the test's own.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect_server import Prefect

import flows.prefect_api
from flows.prefect_api import PrefectApi, PrefectApiError


class Answers(BaseHTTPRequestHandler):
    statuses: list[int]
    seen: list[str]

    def answer(self) -> None:
        self.seen.append(f"{self.command} {self.path.split('?')[0]}")
        csrf = self.path.startswith("/csrf-token")
        status = 200 if csrf or not self.statuses else self.statuses.pop(0)
        body = json.dumps({"token": "t"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectApi]:
    monkeypatch.setattr(flows.prefect_api, "FIRST_DELAY_S", 0.001)
    Answers.statuses, Answers.seen = [], []
    with HTTPServer(("127.0.0.1", 0), Answers) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield PrefectApi(f"http://127.0.0.1:{http.server_port}")
        http.shutdown()


def test_a_locked_database_is_waited_for(server: PrefectApi) -> None:
    Answers.statuses = [503, 503, 502]
    assert server.call("POST", "/x", {}) == {"token": "t"}
    assert Answers.seen.count("POST /x") == 4


def test_a_database_that_stays_locked_is_said(server: PrefectApi) -> None:
    Answers.statuses = [503] * 100
    with pytest.raises(PrefectApiError, match=r"POST http://127\.0\.0\.1:\d+/x: status 503"):
        server.call("POST", "/x", {})


def test_a_refusal_is_not_tried_again(server: PrefectApi) -> None:
    Answers.statuses = [401]
    with pytest.raises(PrefectApiError, match="status 401") as caught:
        server.call("GET", "/x")
    assert (caught.value.status, Answers.seen) == (401, ["GET /x"])
    Answers.statuses = [404]
    assert server.find("/x") is None


@pytest.mark.pipeline
def test_a_request_succeeds_although_the_database_is_really_locked(prefect: Prefect) -> None:
    database = Path(prefect.environment["PREFECT_HOME"], "prefect.db")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("PRAGMA busy_timeout = 30000")
        other.execute("BEGIN EXCLUSIVE")
        released = threading.Event()

        def release() -> None:
            released.set()
            other.execute("ROLLBACK")

        timer = threading.Timer(4.0, release)
        timer.start()
        prefect.call("POST", "/variables/", {"name": "written_while_locked", "value": "yes"})
        assert released.is_set(), "the database was not locked"
        timer.join()
    assert prefect.call("GET", "/variables/name/written_while_locked")["value"] == "yes"
