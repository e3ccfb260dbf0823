"""Log and metrics of each request (ASGI middleware), and the answer to faults of the program."""

import logging
import re
import secrets
import time
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipbert.server.errors import ApiError
from clipbert.server.metrics import Metrics

logger = logging.getLogger("clipbert.server")
REQUEST_ID = "x-request-id"
GOOD_ID = re.compile(r"[\w.-]{1,64}")
UNKNOWN = "other"
PROBES = ("/health", "/ready", "/metrics")  # asked every few seconds


class Observe:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        number = given if GOOD_ID.fullmatch(given) else secrets.token_hex(8)
        started, status = time.monotonic(), 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = number
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, observed)
        except Exception:
            logger.exception("request failed", extra={"request_id": number, "path": scope["path"]})
            if status == 0:
                error = ApiError(500, "internal", f"The server has a fault: its log has the request {number}.")
                await error.response(close=True)(scope, receive, observed)
        finally:
            self._metrics.in_flight.dec()
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", UNKNOWN)
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            client = scope.get("client")
            logger.log(
                logging.DEBUG if scope["path"] in PROBES else logging.INFO,
                "request",
                extra={
                    "request_id": number,
                    "client": client[0] if client else None,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "reason": HTTPStatus(status).phrase if status else "no answer",
                    "ms": round(1000 * seconds, 1),
                    **scope.get("state", {}).get("log", {}),
                },
            )
