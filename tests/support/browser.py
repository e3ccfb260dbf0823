"""A headless Chromium, driven by its DevTools protocol, that records every request of the pages it shows.

Only what the pages ask for is recorded: Chromium's own traffic (updates, network time) is not part of the protocol.
"""

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import connect
from websockets.sync.connection import Connection

START_S = 60.0
WIDE, NARROW = (1400, 1000), (390, 844)  # CSS pixels of a desktop window and of a phone
SEVERE = ("serious", "critical")  # faults of axe that are reported
AXE = """
axe.run(document, {resultTypes: ["violations"]}).then(result => result.violations.map(fault => ({
    impact: fault.impact, rule: fault.id, help: fault.help,
    nodes: fault.nodes.slice(0, 3).map(node => node.html.slice(0, 200) + " " + (node.any[0] || {message: ""}).message),
})))
"""


class Page:
    """A page of the browser with the addresses that it, its frames and its workers asked for.

    Attributes:
        requests: the addresses.
        messages: what the browser reported about the page.
        errors: exceptions that no script caught, and what was written to the console as an error.
    """

    def __init__(self, socket: Connection) -> None:
        self._socket = socket
        self._last = 0
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable", self._session)
        self._call("Runtime.enable", self._session)

    def open(self, url: str) -> None:
        """Begin to load a page."""
        self._call("Page.navigate", self._session, url=url)

    def set_window(self, size: tuple[int, int], dark: bool = False) -> None:
        """Set the size of the window in CSS pixels, and whether the reader prefers a dark page."""
        width, height = size
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", self._session, **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", self._session, features=[scheme])

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key, such as "Tab" or "Enter"; `text` is what it types."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40, "ArrowRight": 39}
        described = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        typed = {"text": text} if text else {}
        self._call("Input.dispatchKeyEvent", self._session, type="keyDown", **described, **typed)
        self._call("Input.dispatchKeyEvent", self._session, type="keyUp", **described)

    def content_width(self) -> int:
        """Return the width of the page's content in CSS pixels, which needs scrolling if the window is narrower."""
        return int(self.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"))

    def accessibility_faults(self) -> list[str]:
        """Return the serious and critical faults that axe-core finds on the page as it is shown."""
        if self.evaluate("typeof axe") == "undefined":
            self.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
        found = self.evaluate(AXE)
        return [
            f"{fault['rule']} ({fault['impact']}): {fault['help']}: {'; '.join(fault['nodes'])}"
            for fault in found
            if fault["impact"] in SEVERE
        ]

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

    def screenshot(self, path: Path | None = None, whole: bool = False) -> str:
        """Return the visible part of the page, or the whole page, as a PNG in base64; also write it to `path`."""
        shown = str(
            self._call("Page.captureScreenshot", self._session, captureBeyondViewport=whole, **self._clip(whole))[
                "data"
            ]
        )
        if path is not None:
            path.write_bytes(base64.b64decode(shown))
        return shown

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self._call("Page.getLayoutMetrics", self._session)["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

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
            if params["entry"]["level"] == "error":
                self.errors.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(part.get("value", part.get("description"))) for part in params["args"]))
        elif method == "Target.attachedToTarget":
            self._record(params["sessionId"])


def page_faults(page: Page, path: Path, text: str) -> list[str]:
    """Return what is wrong with a page on the disk: wide and on a phone, light and dark.

    These are errors in the console, requests, content that is wider than the window, and serious or critical faults
    of accessibility.

    Args:
        text: a text that the page shows once it is loaded.
    """
    found: list[str] = []
    for size in (WIDE, NARROW):
        page.set_window(size)
        page.requests.clear()
        page.errors.clear()
        page.open(path.as_uri())
        page.wait_for(text)
        for dark in (False, True):
            page.set_window(size, dark)
            shown = f"{path.name}, {size[0]} pixels, {'dark' if dark else 'light'}"
            if (width := page.content_width()) > size[0]:
                found.append(f"{shown}: the content is {width} pixels wide")
            found += [f"{shown}: {fault}" for fault in page.accessibility_faults()]
        found += [f"{path.name}: {error}" for error in page.errors]
        own = (path.as_uri(), "data:")
        found += [f"{path.name} asks for {url[:200]}" for url in page.requests if not url.startswith(own)]
    return found


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
