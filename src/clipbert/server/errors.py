"""Answers of the server to requests that it does not serve."""

import math
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

RETRY_AFTER_S = 1.0


class ApiError(HTTPException):
    """Request that gets an error as its answer.

    Attributes:
        status_code: HTTP status.
        code: for programs, as "too_large".
        message: for people: what happened, what was expected, what to do.
        retry_after_s: after which the same request may be served; None where it never is.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(status, message)
        self.code, self.message, self.retry_after_s = code, message, retry_after_s

    def response(self, close: bool = False) -> JSONResponse:
        """Return the answer.

        Args:
            close: end the connection, since the rest of the request is not read.
        """
        headers = {"Cache-Control": "no-store"}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if close:
            headers["Connection"] = "close"
        if self.status_code == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": {"code": self.code, "message": self.message}}, self.status_code, headers)


@dataclass
class ErrorDetail:
    """An error, for programs and for people."""

    code: str
    message: str


@dataclass
class ErrorAnswer:
    """Answer to a request that is not served."""

    error: ErrorDetail


MEANINGS = {
    400: "The body is not a form.",
    401: "The API key is missing or wrong.",
    403: "The request comes from a page of another site, or names another host.",
    404: "The file does not exist below the roots, or no such model or index is loaded.",
    408: "The body took too long to arrive.",
    409: "The search index was made with another model.",
    413: "The body is too large.",
    415: "The body has another type than a form, or is compressed.",
    422: "A field is missing or wrong, or the video cannot be used.",
    429: "Too many requests at once. `Retry-After` says when to try again.",
    503: "The server is starting, stopping or overloaded. `Retry-After` says when to try again.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route for OpenAPI."""
    return {status: {"model": ErrorAnswer, "description": MEANINGS[status]} for status in statuses}
