"""The documentation site: it builds with every link and anchor right, and it loads nothing from other hosts."""

import html
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import browser_page, find_chromium

from clipbert.cli.main import app
from clipbert.config.schema import Params

PROJECT = Path(__file__).parents[1]
LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}
SEARCH = """
const query = document.querySelector("[data-md-component=search-query]")
query.focus()
query.value = "gradient"
query.dispatchEvent(new Event("input", {bubbles: true}))
query.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}))
"""
pytestmark = pytest.mark.slow


class Loads(HTMLParser):
    """The addresses that a page loads by itself; links to follow are not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADING and given.get("rel") not in {"canonical", "next", "prev"}:
            self.addresses.append(given.get(LOADING[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_broken_link_or_anchor_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[a page](gone.md) and [a section](index.md#gone)\n")
    settings = (PROJECT / "mkdocs.yml").read_text()
    validation = settings[settings.index("validation:") : settings.index("nav:\n")]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: broken\nstrict: true\n{validation}")
    command = [sys.executable, "-m", "mkdocs", "build"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "gone.md" in done.stderr
    assert "#gone" in done.stderr
    assert "Aborted with 2 warnings" in done.stdout


def test_pages_and_styles_load_nothing_from_other_hosts(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert [address for address in loads.addresses if "//" in address] == [], page
    for sheet in site.rglob("*.css"):
        found = re.findall(r"(?:@import|url\()\s*[\"']?([^\"')\s]+)", sheet.read_text(encoding="utf-8"))
        assert [address for address in found if re.match(r"(?:https?:)?//", address)] == [], sheet


@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")
def test_pages_and_search_work_from_the_disk_without_a_request(site: Path, tmp_path: Path) -> None:
    with browser_page(tmp_path) as page:
        for name in ("index.html", "how-to/training.html", "reference/api.html"):
            page.open((site / name).as_uri())
            page.wait_for("ClipBERT")
        page.evaluate(SEARCH)
        deadline = time.monotonic() + 30
        while "matching documents" not in (page.evaluate("document.body.innerText") or ""):
            assert time.monotonic() < deadline, "the search gives no result"
            time.sleep(0.2)
        assert page.hosts() == set()


def test_every_verb_and_parameter_has_an_entry(site: Path) -> None:
    verbs = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    commands = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]  # type: ignore[union-attr]
    assert [name for name in commands if f'id="clipbert-{name}"' not in verbs] == []
    entries = (site / "reference" / "parameters.html").read_text(encoding="utf-8")
    assert [name for name in Params().flat() if f'id="{name}"' not in entries] == []
    assert "for example {clipbert.embeddings: 0.1}" in html.unescape(entries)


def test_the_python_reference_shows_what_a_pipeline_takes(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in ("inference.pipelines.pipeline", "model.weights.load.load", "frame_cache.reader.FrameCache"):
        assert f'id="clipbert.{name}"' in page
