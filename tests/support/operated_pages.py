"""A person at the browser: the clicks of docs/operate.md in the pages of Prefect and MLflow, with a picture of each."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from browser import find_chromium
from playwright.sync_api import BrowserContext, expect, sync_playwright
from prefect_server import Prefect

SHOWN_MS = 60_000
WINDOW = {"width": 1280, "height": 900}
# The pictures of a documentation page are read on white.
LIGHT = """localStorage.setItem('color-scheme', '"light"')"""


class OperatedPages:
    """A signed-in browser.

    Args:
        context: the browser.
        servers: whose pages it opens.
        pictures: the folder for pictures of pages.
    """

    def __init__(self, context: BrowserContext, servers: Prefect, pictures: Path) -> None:
        self.page = context.new_page()
        self._context, self._servers, self._pictures = context, servers, pictures
        self._prefect = servers.url.removesuffix("/api")
        for name, shown in (("MLflow", "Welcome to MLflow"), ("Prefect", "Dashboard")):
            self.page.goto(servers.link(name))
            expect(self.page.get_by_text(shown).first).to_be_visible()

    def deployment(self, name: str) -> None:
        """Open the page of a deployment."""
        found = self._servers.call("GET", f"/deployments/name/{name}")
        self.page.goto(f"{self._prefect}/deployments/deployment/{found['id']}")
        expect(self.page.get_by_role("button", name="Run", exact=True)).to_be_visible()

    def start(self, name: str) -> None:
        """Start a run of a deployment with its parameters by clicks."""
        self.deployment(name)
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Quick run").click()
        self.page.get_by_role("dialog").get_by_role("button", name="Run", exact=True).click()
        expect(self.page.get_by_role("dialog")).to_be_hidden()

    def run(self, run: str, state: str) -> None:
        """Open the page of a flow run and wait until it shows a state."""
        self.page.goto(f"{self._prefect}/runs/flow-run/{run}")
        expect(self.page.get_by_text(state, exact=True).first).to_be_visible()

    def artifact(self, run: str, key: str, text: str) -> None:
        """Open the page of an artifact of a flow run and wait until it shows a text."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}}
        (found,) = self._servers.call("POST", "/artifacts/filter", wanted)
        self.page.goto(f"{self._prefect}/artifacts/artifact/{found['id']}")
        expect(self.page.get_by_text(text).first).to_be_visible()

    def open_form(self, run: str) -> None:
        """Open the form of a paused run."""
        self.run(run, "Paused")
        self.page.get_by_role("button", name="Resume").click()
        expect(self.page.get_by_role("dialog").get_by_text("Checks of the gate")).to_be_visible()

    def take_comparison(self, name: str) -> None:
        """Follow the form's link to the comparison, and write a picture of the page of MLflow that shows it.

        MLflow shows the artifact in a frame that nothing outside can read, and asks for news all the time.
        """
        with self._context.expect_page() as opened:
            self.page.get_by_role("link", name="Items won and lost, with frames").click(modifiers=["Control"])
        page = opened.value
        page.set_viewport_size({"width": 1750, "height": 1100})
        frame = page.locator("iframe.mlflow-html-iframe")
        expect(frame).to_be_visible()
        page.wait_for_function("document.querySelector('iframe.mlflow-html-iframe').src.startsWith('blob:')")
        page.wait_for_timeout(2000)
        frame.screenshot(path=self._path(name))
        page.close()

    def fill(self, name: str, note: str) -> None:
        """Fill the form in: approve."""
        form = self.page.get_by_role("dialog")
        form.locator(".p-select-button__icon").click()  # a click on the field itself opens and closes the list
        self.page.get_by_role("option", name="approve").click()
        fields = form.locator("textarea")
        fields.nth(0).fill(name)
        fields.nth(1).fill(note)

    def submit(self) -> None:
        """Submit the form."""
        form = self.page.get_by_role("dialog")
        form.get_by_role("button", name="Submit").click()
        expect(form).to_be_hidden()

    def take_form(self, name: str) -> None:
        """Write a picture of the form, in a window that is high enough for its table."""
        self.page.set_viewport_size({"width": 1280, "height": 1350})
        self.page.wait_for_timeout(1000)
        form = self.page.locator(".p-modal__card, [role=dialog] > *").first
        form.screenshot(path=self._path(name))
        self.page.set_viewport_size(WINDOW)

    def take(self, name: str, height: int) -> None:
        """Write a picture of the upper part of what is shown."""
        self.page.wait_for_timeout(1000)
        clip = {"x": 0, "y": 0, "width": WINDOW["width"], "height": height}
        self.page.screenshot(path=self._path(name), clip=clip)

    def _path(self, name: str) -> Path:
        return self._pictures / f"{name}.png"


@contextlib.contextmanager
def operated_pages(servers: Prefect, pictures: Path) -> Iterator[OperatedPages]:
    """Start a Chromium that is signed in to the servers, and end it with the block."""
    chosen = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=chosen)
        context = browser.new_context(viewport=WINDOW, color_scheme="light")
        context.add_init_script(LIGHT)
        context.set_default_timeout(SHOWN_MS)
        expect.set_options(timeout=SHOWN_MS)
        try:
            yield OperatedPages(context, servers, pictures)
        finally:
            browser.close()
