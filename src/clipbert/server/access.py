"""Who may call the server (ASGI middleware): Host, Origin, API key, and the headers of every answer.

Any page that a browser has open can send requests to 127.0.0.1, and a name of another site can resolve to it (DNS
rebinding). docs/how-to/serve.md describes what is accepted.
"""

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipbert.server.errors import ApiError
from clipbert.server.settings import API_KEY, ServerSettings

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
COOKIE = "clipbert-session"
PROTECTED = ("/v1/", "/metrics")
OPEN = ("/v1/session",)  # checks the key itself
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class AccessGuard:
    """ASGI middleware that answers requests that must not reach the application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded = _with_headers(send)
        error = refusal(self._settings, scope)
        if error is not None:
            await error.response(close=True)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def refusal(settings: ServerSettings, scope: Scope) -> ApiError | None:
    """Return why a request is refused; None if it is not."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_own_host(settings, hosts[0]):
        return ApiError(
            403, "wrong_host", "The Host of the request is not a name of this server. Add it with --allowed-host NAME."
        )
    if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in headers.getlist("origin")):
        return ApiError(403, "wrong_origin", "The server answers programs and its own page, no pages of other sites.")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and (
        headers.get("sec-fetch-mode") != "navigate" or scope["method"] not in ("GET", "HEAD")
    ):
        return ApiError(403, "wrong_origin", "The server answers programs and its own page, no pages of other sites.")
    path = scope["path"]
    if settings.api_key and path.startswith(PROTECTED) and path not in OPEN and not _has_key(settings.api_key, headers):
        return ApiError(
            401, "no_key", f"This server needs an API key ({API_KEY}): send the header `Authorization: Bearer KEY`."
        )
    return None


def _is_own_host(settings: ServerSettings, host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.lower()
    if name in {each.lower() for each in settings.hosts}:
        return True
    if settings.local or not settings.api_key:
        return name in (*LOOPBACK, settings.host.lower(), f"[{settings.host}]".lower())
    # a page of another site cannot know the key, whatever name it uses
    return not settings.hosts or name in LOOPBACK


def _has_key(key: str, headers: Headers) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and equal(given.strip(), key):
        return True
    cookies = cookie_parser("; ".join(headers.getlist("cookie")))
    return equal(cookies.get(COOKIE, ""), session_of(key))


def session_of(key: str) -> str:
    """Return the value of the cookie of a browser that has shown the key."""
    return hmac.new(key.encode(), b"clipbert serve: session", hashlib.sha256).hexdigest()


def equal(given: str, expected: str) -> bool:
    """Compare in constant time; an empty secret equals nothing."""
    return bool(expected) and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", POLICY)
            headers["Referrer-Policy"] = "no-referrer"
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        await send(message)

    return send_with_headers
