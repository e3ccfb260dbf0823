"""Access checks for web applications on this machine (ASGI middleware).

Any page that a browser has open can send requests to 127.0.0.1. `WebGuard` therefore accepts only requests with the
server's own name as Host, from its own pages or from a program, and with the project's API password or a session
created from it. docs/how-to/security.md describes the threat model.
"""

import hashlib
import hmac
import html
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

USER = "clipbert"
LOGIN_PATH = "/sign-in"
_SCRIPT_PATH = "/sign-in.js"
_LONGEST_LOGIN = 1024

# Pages may load scripts, styles and data only from the server; the browser blocks requests to other hosts.
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; frame-src 'self' data: blob:; "
    "connect-src 'self' {sockets}; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)

_LOGIN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in to {name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem; color: #1d2733 }}
input, button {{ font: inherit; padding: .4rem .6rem }} input {{ width: 22rem; max-width: 100% }}
#error {{ color: #a4000f }}
</style></head><body>
<h1>{name}</h1>
<p>Open the link that <code>make ui</code> printed, or enter its token or the API password of the project.</p>
<form id="form"><input id="token" type="password" autocomplete="off" aria-label="Token or password" autofocus>
<button>Sign in</button></form>
<p id="error" role="alert"></p>
<script src="{script}"></script></body></html>
"""

# The token is in the fragment of the link, which browsers send neither to a server nor in a Referer. Requests for other
# pages are also answered with this page, which opens the requested page after the login.
_LOGIN_SCRIPT = """
const isLink = location.pathname === "/sign-in";
const error = document.getElementById("error");

async function signIn(token) {
  const answer = await fetch("/sign-in", {method: "POST", body: token});
  if (!answer.ok) {
    error.textContent = await answer.text();
    return;
  }
  const stored = await answer.json();
  for (const [name, value] of Object.entries(stored)) localStorage.setItem(name, value);
  if (isLink) location.replace("/");
  else location.reload();
}

function useLink() {
  const token = location.hash.slice(1);
  history.replaceState(null, "", "/sign-in");
  if (token) signIn(token);
}

document.getElementById("form").addEventListener("submit", event => {
  event.preventDefault();
  signIn(document.getElementById("token").value.trim());
});
if (isLink) {
  addEventListener("hashchange", useLink);
  useLink();
}
"""


@dataclass(frozen=True)
class Access:
    """Access rules of a server.

    Attributes:
        name: the application's name, for messages.
        port: the port of 127.0.0.1 on which it listens.
        password: the project's API password.
        login_token: the token in the link that `make ui` prints; empty if browsers cannot sign in.
        session: where a browser stores its session. `cookie`: in a cookie; the guard requires it, or the password, for
            every request. `prefect`: in the local storage from which Prefect's pages read the password; Prefect itself
            requires it for every request to its API.
    """

    name: str
    port: int
    password: str
    login_token: str = ""
    session: Literal["cookie", "prefect"] = "cookie"

    @property
    def hosts(self) -> tuple[str, str]:
        """The values of the header Host that this server accepts; the first one is used in links."""
        return f"127.0.0.1:{self.port}", f"localhost:{self.port}"

    @property
    def cookie(self) -> tuple[str, str]:
        """Name and value of the session cookie; the name differs by server, since all ports of a host share cookies."""
        return f"clipbert-{self._derive('cookie name')[:12]}", self._derive(f"session {self.login_token}")

    def _derive(self, purpose: str) -> str:
        return hmac.new(self.password.encode(), f"{self.name} {purpose}".encode(), hashlib.sha256).hexdigest()


class WebGuard:
    """ASGI middleware that answers requests that must not reach the application.

    Args:
        app: the application.
        access: the access rules.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._origins = frozenset(f"http://{host}" for host in access.hosts)
        sockets = " ".join(f"ws://{host}" for host in access.hosts)
        # Prefect's pages compile their templates and draw the graph of a run with eval. MLflow also shows reports among
        # the artifacts, including their scripts, in a frame of its own page.
        scripts = "'unsafe-inline' 'unsafe-eval'" if access.session == "cookie" else "'unsafe-eval'"
        self._policy = _PAGE_POLICY.format(sockets=sockets, scripts=scripts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = await self._answer(scope, receive)
        if answer is None:
            await self._app(scope, receive, self._with_policy(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before accept: the server answers 403
        else:
            await answer(scope, receive, self._with_policy(send))

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        """Return the guard's answer to a request; None if the application must answer it."""
        headers = Headers(scope=scope)
        if refusal := self._refusal(scope, headers):
            return PlainTextResponse(refusal, 403)
        if scope["type"] == "http":
            if _is_page_request(scope, headers) and headers["host"].lower() != self._access.hosts[0]:
                query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
                path = scope["raw_path"].decode("latin-1")
                return RedirectResponse(f"http://{self._access.hosts[0]}{path}{query}", 307)
            if self._access.login_token and scope["path"] in (LOGIN_PATH, _SCRIPT_PATH):
                return await self._login(Request(scope, receive))
        if self._access.session == "cookie" and not self._is_authenticated(scope, headers):
            return self._unauthenticated(scope, headers)
        return None

    def _refusal(self, scope: Scope, headers: Headers) -> str | None:
        """Return why a request is rejected regardless of its password; None if it is not."""
        name, hosts = self._access.name, headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._access.hosts:
            # Another name that resolves to this machine (DNS rebinding).
            return f"{name} answers to the Host {self._access.hosts[0]} only. Open http://{self._access.hosts[0]}.\n"
        if any(origin not in self._origins for origin in headers.getlist("origin")):
            return f"{name} answers requests of its own pages only; this one came from another origin.\n"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and not _is_page_request(scope, headers, top_level=True):
            return f"{name} answers requests of its own pages only; this one came from another site.\n"
        return None

    def _is_authenticated(self, scope: Scope, headers: Headers) -> bool:
        if scope["type"] == "http" and scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            return True
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _equal(credentials.strip(), self._access.password)
        if scheme.lower() == "basic":
            try:
                _, _, password = b64decode(credentials, validate=True).decode().partition(":")
            except ValueError:
                return False
            return _equal(password, self._access.password)
        name, value = self._access.cookie
        cookies = cookie_parser("; ".join(headers.getlist("cookie")))
        return _equal(cookies.get(name, ""), value)

    def _unauthenticated(self, scope: Scope, headers: Headers) -> Response:
        if scope["type"] == "http" and _is_page_request(scope, headers):
            return self._login_page(401)
        return PlainTextResponse(
            f"{self._access.name} needs the API password of the project, .clipbert/api_password: a program sends it "
            "as a bearer token (MLFLOW_TRACKING_TOKEN), a browser signs in at the link that `make ui` printed.\n",
            401,
            {"WWW-Authenticate": "Bearer"},
        )

    async def _login(self, request: Request) -> Response:
        """Return the login page, or create a session for a token."""
        if request.method in ("GET", "HEAD"):
            if request.url.path == _SCRIPT_PATH:
                return Response(_LOGIN_SCRIPT, media_type="text/javascript", headers={"Cache-Control": "no-store"})
            return self._login_page(200)
        if request.method != "POST" or request.url.path != LOGIN_PATH:
            return PlainTextResponse("Method not allowed\n", 405)
        token = ""
        async for chunk in request.stream():
            token += chunk.decode("utf-8", "replace")
            if len(token) > _LONGEST_LOGIN:
                break
        if not (_equal(token, self._access.login_token) or _equal(token, self._access.password)):
            return PlainTextResponse("Wrong token. Each `make ui` prints a new link.\n", 403)
        stored = {}
        if self._access.session == "prefect":
            stored["prefect-password"] = b64encode(f"{USER}:{self._access.password}".encode()).decode()
        answer = JSONResponse(stored, headers={"Cache-Control": "no-store"})
        if self._access.session == "cookie":
            name, value = self._access.cookie
            answer.set_cookie(name, value, path="/", httponly=True, samesite="strict")
        return answer

    def _login_page(self, status: int) -> Response:
        page = _LOGIN_PAGE.format(name=html.escape(self._access.name), script=_SCRIPT_PATH)
        return HTMLResponse(page, status, {"Cache-Control": "no-store"})

    def _with_policy(self, send: Send) -> Send:
        """Add the security headers to each response."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "content-security-policy" not in headers:
                    headers["Content-Security-Policy"] = self._policy
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        return send_with_policy


def _is_page_request(scope: Scope, headers: Headers, top_level: bool = False) -> bool:
    """Return whether a browser requests a page; with `top_level`, only as the page of a tab."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    if top_level:
        return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return "text/html" in headers.get("accept", "")


def _equal(given: str, expected: str) -> bool:
    """Compare in constant time; an empty secret equals nothing."""
    return bool(expected) and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def read_access(value: str) -> Access:
    """Return the access rules that `write_access` wrote.

    Raises:
        KeyError, TypeError, ValueError: the text is damaged.
    """
    return Access(**json.loads(value))


def write_access(access: Access) -> str:
    """Return access rules as text, for the environment of the server's process."""
    return json.dumps(vars(access))
