"""Limits of request bodies (ASGI middleware): size, time, encoding, and the bytes of all uploads together."""

import asyncio
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from clipbert.server.errors import RETRY_AFTER_S, ApiError
from clipbert.server.metrics import Metrics
from clipbert.server.settings import MB, Limits

FORM_OVERHEAD = MB  # fields and boundaries around an upload
UPLOADS_AT_ONCE = 10  # of the largest size, on disk at one time
DISCARD_S, DISCARD_BYTES = 2.0, 16 * MB
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class BodyLimits:
    """ASGI middleware that ends requests whose body is too large, too slow or compressed."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        error = self._refusal(scope, headers)
        if error is not None:
            await _discard(receive)
            await error.response(close=True)(scope, receive, send)
            return
        body = _Body(self, receive, self._limits)
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._held -= body.size

    def _refusal(self, scope: Scope, headers: Headers) -> ApiError | None:
        coding = headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            return ApiError(415, "encoded", f"Content-Encoding is {coding!r:.50}: bodies must not be compressed.")
        has_body = "content-length" in headers or "transfer-encoding" in headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and has_body and headers.get("content-length") != "0" and kind not in FORMS:
            return ApiError(415, "not_a_form", f"Content-Type is {kind!r:.80}: expected a form ({' or '.join(FORMS)}).")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.most:
            return self.too_large()
        return None

    @property
    def most(self) -> int:
        """Bytes that a body may have."""
        return round(self._limits.upload_mb * MB) + FORM_OVERHEAD

    def too_large(self) -> ApiError:
        """Return the answer to a body that is too large."""
        return ApiError(413, "too_large", f"The body has more than {self._limits.upload_mb:g} MB (--max-upload-mb).")

    def hold(self, count: int) -> None:
        """Count bytes that a running request has sent.

        Raises:
            ApiError: all running requests together have sent too many.
        """
        self._held += count
        self._metrics.upload_bytes.inc(count)
        if self._held > UPLOADS_AT_ONCE * self.most:
            raise ApiError(
                429,
                "too_many_uploads",
                f"Running requests have uploaded {self._held / MB:.0f} MB: expected at most "
                f"{UPLOADS_AT_ONCE} times --max-upload-mb. Try again.",
                RETRY_AFTER_S,
            )


class _Body:
    """The body of one request."""

    def __init__(self, guard: BodyLimits, receive: Receive, limits: Limits) -> None:
        self._guard, self._receive, self._limits = guard, receive, limits
        self._end = time.monotonic() + limits.upload_s
        self.size = 0
        self._complete = False

    async def receive(self) -> Any:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._end - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                408,
                "too_slow",
                f"The body did not arrive within {self._limits.upload_s:g} s (--upload-timeout).",
            ) from None
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self.size += count
            self._guard.hold(count)
            if self.size > self._guard.most:
                raise self._guard.too_large()
            self._complete = not message.get("more_body", False)
        return message


async def _discard(receive: Receive) -> None:
    """Read a little of a body that is refused, so that a client that is still sending gets the answer."""
    count = 0
    try:
        async with asyncio.timeout(DISCARD_S):
            while count < DISCARD_BYTES:
                message = await receive()
                count += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
