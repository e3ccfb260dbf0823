"""The pages of `make ui` in a real browser, with every request that they make recorded."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Page, browser_page, find_chromium
from prefect_server import Prefect

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(
        find_chromium() is None, reason="no Chromium here; test_access.py checks the policy without a browser"
    ),
]

# A page that asks another host for a picture, from a frame for another one, from a worker, and by a WebSocket.
FOREIGN = """<!doctype html><body>planted
<img src="http://localhost:{port}/image.png">
<iframe srcdoc='<img src="http://localhost:{port}/frame.png">'></iframe>
<script>
new Worker(URL.createObjectURL(new Blob(["fetch('http://localhost:{port}/worker')"])));
new WebSocket("ws://localhost:{port}/socket");
</script>"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser_page(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "expected", "other"),
    [("Prefect", "Dashboard", "/deployments"), ("MLflow", "Welcome to MLflow", "/#/models")],
    ids=["prefect", "mlflow"],
)
def test_the_printed_link_opens_the_pages_and_they_call_no_other_host(
    prefect: Prefect, page: Page, name: str, expected: str, other: str
) -> None:
    link = prefect.link(name)
    own = urlsplit(link).netloc
    page.open(link)
    page.wait_for(expected)
    assert page.hosts() == {own}
    page.open(f"http://{own}{other}")
    page.wait_for("clipbert-pipeline" if name == "Prefect" else "Registered Models")
    assert page.hosts() == {own}
    assert page.stopped() == []
    if name == "Prefect":  # without its colors the form of a paused run is transparent
        assert page.evaluate("document.documentElement.className") in ("dark", "light")
    # A request of a library in the page would be stopped by the policy, and noticed.
    fetched = page.evaluate("fetch('http://analytics.invalid/collect').then(() => 'sent', () => 'stopped')")
    assert fetched == "stopped"
    assert page.hosts() == {own}
    assert any("http://analytics.invalid/collect" in message for message in page.stopped())


@pytest.mark.slow
def test_a_planted_foreign_request_is_recorded_wherever_it_comes_from(page: Page, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    handler = functools.partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        (site / "index.html").write_text(FOREIGN.format(port=port))
        page.open(f"http://127.0.0.1:{port}/")
        page.wait_for("planted")
        server.shutdown()
    paths = {urlsplit(url).path for url in page.requests if urlsplit(url).netloc == f"localhost:{port}"}
    assert paths == {"/image.png", "/frame.png", "/worker", "/socket"}
