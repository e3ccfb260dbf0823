"""No web page, and no program without the project's password, uses the servers of `make ui`."""

import json
import urllib.error
import urllib.request
from base64 import b64encode
from typing import Any

import pytest
from prefect_server import Prefect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

pytestmark = pytest.mark.pipeline

FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8000"},
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
]


def status(method: str, url: str, body: Any = None, **headers: str) -> int:
    """The status that the answer to a request has."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def basic(prefect: Prefect) -> str:
    return "Basic " + b64encode(f"clipbert:{prefect.password}".encode()).decode()


def counts(prefect: Prefect) -> dict[str, int]:
    return {kind: prefect.call("POST", f"/{kind}/count", {}) for kind in ("flows", "deployments", "flow_runs")}


def attempts(prefect: Prefect) -> list[tuple[str, str, Any]]:
    """Requests that create a flow, a deployment whose pull step runs a command, and a run."""
    daily = prefect.call("GET", "/deployments/name/clipbert-pipeline/daily")
    step = {"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/clipbert-attacked"}}
    deployment = {"name": "evil", "flow_id": daily["flow_id"], "pull_steps": [step], "work_pool_name": "clipbert"}
    return [
        ("POST", "/flows/", {"name": "evil"}),
        ("POST", "/deployments/", deployment),
        ("POST", f"/deployments/{daily['id']}/create_flow_run", {}),
        ("PATCH", f"/deployments/{daily['id']}", {"parameters": {"stages": ["evil"]}}),
        ("DELETE", f"/deployments/{daily['id']}", None),
    ]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_foreign_page_cannot_use_prefect_even_with_the_password(prefect: Prefect, headers: dict[str, str]) -> None:
    before = counts(prefect)
    for method, path, body in attempts(prefect):
        for kind in ("application/json", "text/plain"):
            everything = {"Authorization": basic(prefect), "Content-Type": kind} | headers
            assert status(method, prefect.url + path, body, **everything) == 403
    assert counts(prefect) == before


def test_without_the_password_prefect_creates_and_runs_nothing(prefect: Prefect) -> None:
    before = counts(prefect)
    wrong = "Basic " + b64encode(b"clipbert:wrong").decode()
    for method, path, body in attempts(prefect):
        assert status(method, prefect.url + path, body) == 403  # the CSRF check comes first
        for authorization in ("", wrong):
            token = {"Prefect_Csrf_Token": "x", "Prefect_Csrf_Client": "x", "Authorization": authorization}
            assert status(method, prefect.url + path, body, **token) in (401, 403)
    assert counts(prefect) == before
    for path in ("/admin/version", "/csrf-token?client=x", "/docs", "/flows/name/clipbert-pipeline"):
        assert status("GET", prefect.url + path) == 401
    assert status("GET", f"{prefect.url}/health") == 200


def test_a_request_with_the_password_needs_a_csrf_token_too(prefect: Prefect) -> None:
    body = {"name": "evil"}
    assert status("POST", f"{prefect.url}/flows/", body, Authorization=basic(prefect)) == 403
    assert counts(prefect)["flows"] == len(prefect.call("POST", "/flows/filter", {}))


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
def test_no_websocket_for_a_foreign_page_or_without_the_password(prefect: Prefect, path: str) -> None:
    url = f"{prefect.url.replace('http', 'ws', 1)}/{path}"
    for headers in FOREIGN[:3]:
        with pytest.raises(InvalidStatus, match="403"), connect(url, origin=headers["Origin"]):  # type: ignore[arg-type]
            pass
    with pytest.raises(InvalidStatus, match="403"), connect(url):
        pass
    for token, closes in ((None, True), ("clipbert:wrong", True), (f"clipbert:{prefect.password}", False)):
        with connect(url, subprotocols=[Subprotocol("prefect")]) as socket:
            socket.send(json.dumps({"type": "auth", "token": token}))
            if closes:
                with pytest.raises(ConnectionClosed):
                    socket.recv(30)
            else:
                assert json.loads(socket.recv(30)) == {"type": "auth_success"}


def test_mlflow_takes_requests_with_the_password_from_programs_and_its_own_pages_only(prefect: Prefect) -> None:
    bearer = {"Authorization": f"Bearer {prefect.password}"}
    for api in ("api", "ajax-api"):
        url = f"{prefect.mlflow}/{api}/2.0/mlflow/experiments"
        for headers in FOREIGN:
            assert status("POST", f"{url}/create", {"name": "evil"}, **bearer, **headers) == 403
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "clipbert-0=x"}):
            assert status("POST", f"{url}/create", {"name": "evil"}, **headers) == 401
        assert status("GET", f"{url}/get-by-name?experiment_name=evil", **bearer) == 404
        assert status("GET", f"{url}/get-by-name?experiment_name=Default", **bearer) == 200
    assert status("GET", f"{prefect.mlflow}/", Accept="text/html") == 401


def test_a_browser_signs_in_with_the_printed_link(prefect: Prefect) -> None:
    for name in ("MLflow", "Prefect"):
        address, _, token = prefect.link(name).partition("#")
        assert status("GET", address) == 200
        request = urllib.request.Request(address, token.encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            stored, cookie = json.load(answer), answer.headers["set-cookie"]
        if name == "Prefect":
            header = {"Authorization": f"Basic {stored['prefect-password']}"}
            assert status("GET", f"{prefect.url}/admin/version", **header) == 200
        else:
            assert status("GET", f"{prefect.mlflow}/version", Cookie=cookie.split(";")[0]) == 200


def test_the_pages_may_load_nothing_from_another_host(prefect: Prefect) -> None:
    """What a browser does with it is tested in test_pages.py, where there is one."""
    address = prefect.url.removesuffix("/api")
    for page in (f"{address}/", f"{address}/v2/dashboard", f"{address}/docs", f"{prefect.mlflow}/health"):
        request = urllib.request.Request(page, headers={"Accept": "text/html"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert {source for source in policy.replace(";", " ").split() if "://" in source} == {
            f"ws://{page.split('/')[2]}",
            f"ws://localhost:{page.split('/')[2].split(':')[1]}",
        }
    with urllib.request.urlopen(f"{address}/ui-settings", timeout=30) as answer:
        assert json.load(answer)["default_ui"] == "v1"  # the other version brings an analytics library
