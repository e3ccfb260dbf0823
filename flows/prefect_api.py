"""Client of Prefect's REST API, for `make ui`."""

import json
import time
import uuid
from typing import Any

import httpx

ATTEMPTS = 8
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 10.0
TIMEOUT_S = 60.0
_RETRYABLE = {429, 502, 503}  # 503: the server's SQLite database was locked


class PrefectApiError(Exception):
    """The server rejected a request or did not answer it; the message names the request and the reason."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PrefectApi:
    """Client that repeats its requests while the server's database is locked or the server does not answer.

    Args:
        url: the address of the API, such as http://127.0.0.1:4200/api.
        auth_string: PREFECT_API_AUTH_STRING, USER:PASSWORD; empty for a server without one.
    """

    def __init__(self, url: str, auth_string: str = "") -> None:
        self.url = url.rstrip("/")
        self._csrf_client = str(uuid.uuid4())
        user, _, password = auth_string.partition(":")
        self._client = httpx.Client(
            headers={"Prefect-Csrf-Client": self._csrf_client},
            auth=(user, password) if auth_string else None,
            timeout=TIMEOUT_S,
            follow_redirects=True,
            limits=httpx.Limits(max_keepalive_connections=0),  # a connection does not outlive a restart of the server
        )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the JSON of the answer; None for an empty answer.

        Raises:
            PrefectApiError: the server rejected the request, or did not answer any attempt.
        """
        for attempt in range(ATTEMPTS):
            try:
                if method != "GET":
                    self._add_csrf_token()
                return self._send(method, path, body)
            except PrefectApiError as error:
                if attempt + 1 == ATTEMPTS or not (error.status is None or error.status in _RETRYABLE):
                    raise
                time.sleep(min(FIRST_DELAY_S * 2**attempt, MAX_DELAY_S))
        raise AssertionError("unreachable")

    def find(self, path: str) -> Any:
        """Return the JSON of an object; None if the server does not have it.

        Raises:
            PrefectApiError: as for `call`.
        """
        try:
            return self.call("GET", path)
        except PrefectApiError as error:
            if error.status == 404:
                return None
            raise

    def is_healthy(self) -> bool:
        """Return whether the server answers now."""
        try:
            self._send("GET", "/health")
        except PrefectApiError:
            return False
        return True

    def _add_csrf_token(self) -> None:
        try:
            token = self._send("GET", f"/csrf-token?client={self._csrf_client}")
        except PrefectApiError as error:
            if error.status != 422:  # CSRF protection is off
                raise
        else:
            self._client.headers["Prefect-Csrf-Token"] = token["token"]

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        request = f"{method} {self.url}{path}"
        try:
            answer = self._client.request(method, f"{self.url}{path}", json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PrefectApiError(f"{request}: no answer ({error}).") from error
        if answer.is_error:
            raise PrefectApiError(f"{request}: status {answer.status_code}. {answer.text[:300]}", answer.status_code)
        return json.loads(answer.content) if answer.content else None
