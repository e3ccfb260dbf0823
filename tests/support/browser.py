"""A headless Chromium, driven by its DevTools protocol, that records every request of the pages it shows.

Only what the pages ask for is recorded: Chromium's own traffic (updates, network time) is not part of the protocol.
"""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import connect
from websockets.sync.connection import Connection

START_S = 60.0


class Page:
    """A page of the browser with the addresses that it, its frames and its workers asked for.

    Attributes:
        requests: the addresses.
        messages: what the browser reported about the page.
    """

    def __init__(self, socket: Connection) -> None:
        self._socket = socket
        self._last = 0
        self.requests: list[str] = []
        self.messages: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable", self._session)

    def open(self, url: str) -> None:
        """Begin to load a page."""
        self._call("Page.navigate", self._session, url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        options = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        return self._call("Runtime.evaluate", self._session, **options)["result"].get("value")

    def wait_for(self, text: str, seconds: float = START_S) -> None:
        """Wait until the page shows a text and has sent no request during a second."""
        deadline = time.monotonic() + seconds
        quiet = 0
        while quiet < 4:
            before = len(self.requests)
            shown = self.evaluate("document.body ? document.body.innerText : ''") or ""
            self._receive_for(0.25)
            quiet = quiet + 1 if text in shown and len(self.requests) == before else 0
            assert time.monotonic() < deadline, f"{text!r} is not shown after {seconds:g} s, but: {shown[:500]}"

    def hosts(self) -> set[str]:
        """Return host and port of every address that was asked for."""
        web = ("http", "https", "ws", "wss")
        return {parts.netloc for parts in map(urlsplit, self.requests) if parts.scheme in web}

    def stopped(self) -> list[str]:
        """Return the browser's messages about requests that the page's content security policy stopped."""
        self._receive_for(0.5)
        return [message for message in self.messages if "Content Security Policy" in message]

    def screenshot(self) -> str:
        """Return the visible part of the page as a PNG, in base64."""
        return str(self._call("Page.captureScreenshot", self._session)["data"])

    def _record(self, session: str) -> None:
        """Record the requests of a page, frame or worker, and of those that it starts, from their first one on.

        The answers are not awaited: not every kind of worker has all of these commands, and one may end meanwhile.
        """
        for method in ("Network.enable", "Log.enable"):
            self._send(method, session)
        self._send("Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=True, flatten=True)
        self._send("Runtime.runIfWaitingForDebugger", session)

    def _send(self, method: str, session: str | None = None, **params: Any) -> int:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        return self._last

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = self._send(method, session, **params)
        while True:
            answer = json.loads(self._socket.recv(START_S))
            if answer.get("id") == number:
                if "error" in answer:
                    raise ProtocolError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])
            self._note(answer)

    def _receive_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                self._note(json.loads(self._socket.recv(left)))

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        elif method == "Target.attachedToTarget":
            self._record(params["sessionId"])


class ProtocolError(Exception):
    """The browser refused a command."""


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome, None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browser_page(folder: Path) -> Iterator[Page]:
    """Start a Chromium with a fresh profile in `folder`, and end it with the block."""
    chosen = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    chosen += ["--disable-background-networking", "--disable-component-update", "--window-size=1500,1000"]
    profile, log = folder / "profile", folder / "chromium.log"
    port_file = profile / "DevToolsActivePort"
    with log.open("wb") as output:
        chromium = subprocess.Popen(
            [str(find_chromium()), *chosen, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_S
        while not (port_file.exists() and len(lines := port_file.read_text().split("\n")) == 2 and lines[1]):
            is_starting = chromium.poll() is None and time.monotonic() < deadline
            assert is_starting, log.read_text(errors="replace")
            time.sleep(0.1)
        with connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", max_size=None) as socket:
            yield Page(socket)
            with contextlib.suppress(Exception):
                socket.send(json.dumps({"id": 0, "method": "Browser.close"}))
                chromium.wait(10)
    finally:
        chromium.kill()
        chromium.wait()
