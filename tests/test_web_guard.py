"""The access checks in front of a small application; tests/flows/test_access.py has them in front of the real ones."""

from base64 import b64encode

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from clipbert.web_guard import Access, WebGuard, read_access, write_access

PASSWORD, TOKEN = "p" * 43, "t" * 32
HOST = "127.0.0.1:4200"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
BEARER = {"Authorization": f"Bearer {PASSWORD}"}


async def reached(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("reached")


async def socket(connection: WebSocket) -> None:
    await connection.accept()
    await connection.close()


APP = Starlette(routes=[WebSocketRoute("/socket", socket), Route("/{path:path}", reached, methods=METHODS)])


def client(session: str = "cookie", host: str = HOST) -> TestClient:
    guard = WebGuard(APP, Access("MLflow", 4200, PASSWORD, TOKEN, session))  # type: ignore[arg-type]
    return TestClient(guard, base_url=f"http://{host}", follow_redirects=False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "https://127.0.0.1:4200"},
        {"Origin": f"http://{HOST}.evil.example"},
        {"Host": "evil.example"},
        {"Host": "evil.example:4200"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:8000"},
        {"Host": f"{HOST}@evil.example"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_another_site_is_refused_even_with_the_password(method: str, headers: dict[str, str]) -> None:
    answer = client().request(method, "/api", headers=BEARER | headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_a_form_of_another_site_is_refused_although_it_looks_like_a_navigation() -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client().post("/api", headers=BEARER | headers).status_code == 403
    assert client().get("/", headers=BEARER | headers).text == "reached", "a link may lead here"


@pytest.mark.parametrize("path", ["/", "/api", "/version", "/health/", "/health/x", "/HEALTH", "/sign-in/x"])
def test_without_the_password_nothing_is_reached(path: str) -> None:
    for headers in (
        {},
        {"Authorization": f"Bearer {PASSWORD}x"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic !"},
        {"Authorization": f"Basic {b64encode(b'clipbert:').decode()}"},
        {"Cookie": "clipbert-000000000000=x"},
    ):
        answer = client().post(path, headers=headers)
        assert (answer.status_code, "reached" in answer.text) == (401, False)
    assert client().post("/health").status_code == 401
    assert client().get("/health").text == "reached"


def test_programs_send_the_password_as_a_token_or_as_basic_authentication() -> None:
    basic = b64encode(f"anyone:{PASSWORD}".encode()).decode()
    assert client().post("/api", headers=BEARER).text == "reached"
    assert client().post("/api", headers={"Authorization": f"Basic {basic}"}).text == "reached"


@pytest.mark.parametrize("secret", [TOKEN, PASSWORD])
def test_a_browser_signs_in_once_and_its_cookie_is_this_servers_own(secret: str) -> None:
    browser = client()
    page = browser.get("/", headers={"Accept": "text/html"})
    assert page.status_code == 401
    assert "Sign in to MLflow" in page.text
    answer = browser.post("/sign-in", content=secret, headers={"Origin": f"http://{HOST}"})
    assert answer.json() == {}
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert PASSWORD not in cookie
    assert browser.get("/", headers={"Accept": "text/html"}).text == "reached"
    name, value = Access("MLflow", 4200, PASSWORD, TOKEN).cookie
    for other in (Access("MLflow", 4200, "q" * 43, TOKEN), Access("MLflow", 4200, PASSWORD, "u" * 32)):
        assert other.cookie[1] != value, "a cookie of another project, or of an earlier make ui, opens nothing"
    assert client().get("/", headers={"Cookie": f"{name}={value[:-1]}"}).status_code == 401


def test_prefects_pages_take_the_password_from_the_storage_that_only_they_can_read() -> None:
    browser = client("prefect")
    answer = browser.post("/sign-in", content=TOKEN)
    assert answer.json() == {"prefect-password": b64encode(f"clipbert:{PASSWORD}".encode()).decode()}
    assert "set-cookie" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], "\udcff", "x" * 100_000])
def test_a_wrong_token_signs_nobody_in(token: str) -> None:
    answer = client().post("/sign-in", content=token.encode("utf-8", "surrogateescape"))
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_without_a_login_token_there_is_no_sign_in() -> None:
    guard = TestClient(WebGuard(APP, Access("Prefect", 4200, PASSWORD)), base_url=f"http://{HOST}")
    assert guard.post("/sign-in", content="").status_code == 401


def test_pages_open_under_one_name_and_may_load_nothing_from_elsewhere() -> None:
    answer = client(host="localhost:4200").get("/a%2Fb?c=1", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (307, f"http://{HOST}/a%2Fb?c=1")
    policy = client().get("/", headers=BEARER).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy.replace("https:", "x"), "no other host is named"
    sources = [word for word in policy.replace(";", " ").split() if "://" in word]
    assert sources == [f"ws://{HOST}", "ws://localhost:4200"]


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Authorization": "x"}]
)
def test_a_websocket_of_another_site_or_without_the_password_is_refused(headers: dict[str, str]) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        client().websocket_connect(f"ws://{HOST}/socket", headers=BEARER | headers),
    ):
        pass
    with client().websocket_connect(f"ws://{HOST}/socket", headers=BEARER):
        pass


def test_access_travels_through_the_environment() -> None:
    access = Access("MLflow", 4200, PASSWORD, TOKEN, session="prefect")
    assert read_access(write_access(access)) == access
