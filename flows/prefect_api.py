"""A small client of Prefect's REST API for `make ui`."""

import base64
import json
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

ATTEMPTS = 8
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
_RETRYABLE = {429, 502, 503}  # 503: the server's SQLite database was locked


class PrefectApiError(Exception):
    """The server refused a request, or did not answer it; the message says which one and why."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PrefectApi:
    """Requests to a Prefect server, repeated while its database is locked or it does not answer.

    Args:
        url: the address of the API, such as http://127.0.0.1:4200/api.
        auth_string: PREFECT_API_AUTH_STRING; empty for a server without one.
    """

    def __init__(self, url: str, auth_string: str = "") -> None:
        self.url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Prefect-Csrf-Client": str(uuid.uuid4())}
        if auth_string:
            self._headers["Authorization"] = f"Basic {base64.b64encode(auth_string.encode()).decode()}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON that the server answers; None for an empty answer.

        Raises:
            PrefectApiError: the server refused the request, or gave no answer in all attempts.
        """
        for attempt in range(ATTEMPTS):
            try:
                if method != "GET":
                    self._add_csrf_token()
                return self._send(method, path, body)
            except PrefectApiError as error:
                if attempt + 1 == ATTEMPTS or not (error.status is None or error.status in _RETRYABLE):
                    raise
                time.sleep(min(FIRST_DELAY_S * 2**attempt, LONGEST_DELAY_S))
        raise AssertionError("unreachable")

    def find(self, path: str) -> Any:
        """Return the JSON of an object; None if the server has no such object.

        Raises:
            PrefectApiError: as `call`.
        """
        try:
            return self.call("GET", path)
        except PrefectApiError as error:
            if error.status == 404:
                return None
            raise

    def is_healthy(self) -> bool:
        """Whether the server answers now."""
        try:
            self._send("GET", "/health")
        except PrefectApiError:
            return False
        return True

    def _add_csrf_token(self) -> None:
        client = self._headers["Prefect-Csrf-Client"]
        try:
            token = self._send("GET", f"/csrf-token?client={client}")
        except PrefectApiError as error:
            if error.status != 422:  # the server has CSRF protection switched off
                raise
        else:
            self._headers["Prefect-Csrf-Token"] = token["token"]

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, self._headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            detail = error.read().decode("utf-8", "replace")[:300]
            raise PrefectApiError(f"{method} {self.url}{path}: status {error.code}. {detail}", error.code) from error
        except OSError as error:
            raise PrefectApiError(f"{method} {self.url}{path}: no answer ({error}).") from error
        return json.loads(text) if text else None
