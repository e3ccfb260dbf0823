"""The page in a browser: each part with real videos, without faults of accessibility, errors or foreign requests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import NARROW, WIDE, Page, browser_page, find_chromium
from clipbert_server import RunningServer, running_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="needs Chromium"),
]

KEY = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser_page(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def opened(page: Page, served: RunningServer) -> Page:
    """The page as it is first shown."""
    page.set_window(WIDE)
    page.open("about:blank")
    page.requests.clear()
    page.errors.clear()
    page.open(served.address)
    page.wait_for("Models:")
    return page


def give_file(page: Page, path: Path) -> None:
    """Choose a file, as the browser's dialog does."""
    root = page._call("DOM.getDocument", page._session)["root"]["nodeId"]
    node = page._call("DOM.querySelector", page._session, nodeId=root, selector="#file")["nodeId"]
    page._call("DOM.setFileInputFiles", page._session, nodeId=node, files=[str(path)])
    page.wait_for(path.name)


def write(page: Page, selector: str, text: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).value = {text!r}")


def click(page: Page, selector: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).click()")


def text_of(page: Page, selector: str) -> str:
    return str(page.evaluate(f"document.querySelector({selector!r}).innerText"))


def set_colors(page: Page, size: tuple[int, int], dark: bool) -> None:
    """Set the window, and wait until the page has noticed."""
    page.set_window(size, dark)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate("new Promise(done => setTimeout(done, 50))")


def check(page: Page, served: RunningServer) -> None:
    """Check that the page as shown has no fault, wide and on a phone, light and dark."""
    for size in (WIDE, NARROW):
        for dark in (False, True):
            set_colors(page, size, dark)
            assert page.content_width() <= size[0]
            assert page.accessibility_faults() == []
    page.set_window(WIDE)
    assert page.hosts() == {served.address.removeprefix("http://")}
    assert page.errors == []
    assert page.stopped() == []


def test_a_question_about_an_upload_with_its_frames(opened: Page, served: RunningServer, served_project: Path) -> None:
    check(opened, served)
    give_file(opened, served_project / "data" / "videos" / "0.mp4")
    assert opened.evaluate("document.querySelector('#video').src").startswith("blob:")
    write(opened, "#question", "what color is it?")
    click(opened, "#submit")
    opened.wait_for("Words that the answer rests on")
    found = text_of(opened, "#result")
    assert "%" in found
    assert "probabilities, not calibrated · artifacts/models/open_qa (the last trained)" in found
    frames = opened.evaluate("[...document.querySelectorAll('.frame')].map(each => each.innerText.trim())")
    assert len(frames) == opened.evaluate("document.querySelectorAll('.frame canvas').length") > 1
    assert all(frame.endswith(" s") for frame in frames)
    check(opened, served)
    click(opened, "#heat")
    assert opened.evaluate("document.querySelector('.clips').classList.contains('no-heat')")
    opened.evaluate("[...document.querySelectorAll('.frame')].at(-1).click()")
    assert opened.evaluate("document.querySelector('#video').currentTime") > 0


def test_options_captions_and_descriptions(opened: Page, served: RunningServer, served_project: Path) -> None:
    give_file(opened, served_project / "data" / "videos" / "1.mp4")
    click(opened, "input[value=choose]")
    write(opened, "#question", "what color is it?")
    click(opened, "#add-option")
    for number, text in enumerate(("red", "blue", "green"), start=1):
        write(opened, f".option:nth-child({number}) input", text)
    click(opened, "#submit")
    opened.wait_for("probabilities, not calibrated")
    assert {"red", "blue", "green"} <= set(text_of(opened, "#result").splitlines())
    check(opened, served)
    click(opened, "input[value=caption]")
    click(opened, "#submit")
    opened.wait_for("log-probability")
    check(opened, served)
    click(opened, "input[value=match]")
    write(opened, "#texts", "a red square\na blue circle")
    click(opened, "#submit")
    opened.wait_for("scores are log odds of a match")
    assert {"a red square", "a blue circle"} <= set(text_of(opened, "#result").splitlines())
    check(opened, served)


def test_errors_are_in_words(opened: Page, served: RunningServer, served_project: Path, tmp_path: Path) -> None:
    click(opened, "#submit")
    opened.wait_for("Choose a video or picture first.")
    give_file(opened, served_project / "data" / "videos" / "0.mp4")
    click(opened, "#submit")
    opened.wait_for("Write a question first.")
    check_alert = "document.querySelector('#alert').getAttribute('role')"
    assert opened.evaluate(check_alert) == "alert"
    write(opened, "#question", "what color is it?")
    opened.evaluate("document.querySelector('#segment').open = true")
    write(opened, "#start", "99")
    click(opened, "#submit")
    opened.wait_for("0.mp4: start_s is 99, but the video lasts 2.0 s")
    assert opened.accessibility_faults() == []
    bad = tmp_path / "notes.mp4"
    bad.write_text("no video")
    click(opened, "#replace")
    give_file(opened, bad)
    click(opened, "#submit")
    opened.wait_for("notes.mp4: is not a video or picture that can be read")
    assert opened.evaluate("document.querySelector('#submit').disabled") is False


def test_a_video_is_asked_about_with_the_keyboard_alone(opened: Page, served_project: Path) -> None:
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"
    order = []
    for _ in range(9):
        opened.press("Tab")
        order.append(opened.evaluate(focused))
    assert order[:6] == ["Skip to the content", "tab-ask", "tab-search", "API", "theme", "file"]
    give_file(opened, served_project / "data" / "videos" / "2.mp4")
    assert opened.evaluate(focused) == "question"
    for letter in "what is it":
        opened.press(letter, letter)
    opened.press("Enter", "\r")
    opened.wait_for("Which frames were used, and why")
    assert opened.evaluate(focused) == "result"
    for _ in range(40):
        opened.press("Tab")
        if opened.evaluate("document.activeElement.className") == "frame":
            break
    opened.press("Enter", "\r")
    assert opened.evaluate("document.querySelector('#video').currentTime") > 0


def test_colors_follow_the_system_or_the_switch(opened: Page, served: RunningServer) -> None:
    theme = "document.documentElement.dataset.theme"
    label = "document.querySelector('#theme').getAttribute('aria-label')"
    set_colors(opened, WIDE, dark=True)
    assert opened.evaluate(theme) == "dark"
    set_colors(opened, WIDE, dark=False)
    assert opened.evaluate(theme) == "light"
    click(opened, "#theme")
    assert (opened.evaluate(theme), opened.evaluate(label)) == ("dark", "Colors: dark")
    opened.open(served.address)
    opened.wait_for("Models:")
    assert opened.evaluate(theme) == "dark"  # kept
    click(opened, "#theme")
    click(opened, "#theme")
    assert (opened.evaluate(theme), opened.evaluate(label)) == ("light", "Colors: as the system")


def test_a_key_is_asked_for_once(page: Page, served_project: Path) -> None:
    with running_server(served_project, key=KEY) as server:
        page.set_window(WIDE)
        page.open(server.address)
        page.wait_for("This server needs a key")
        assert page.accessibility_faults() == []
        write(page, "#key", "wrong")
        page.evaluate("document.querySelector('#key-form').requestSubmit()")
        page.wait_for("This key is wrong.")
        write(page, "#key", KEY)
        page.evaluate("document.querySelector('#key-form').requestSubmit()")
        page.wait_for("Models:")
        give_file(page, served_project / "data" / "videos" / "0.mp4")
        write(page, "#question", "what color is it?")
        click(page, "#submit")
        page.wait_for("Words that the answer rests on")
        page.open(server.address)
        page.wait_for("Models:")


def test_the_documentation_of_the_api_needs_no_network(page: Page, served: RunningServer) -> None:
    page.set_window(WIDE)
    page.requests.clear()
    page.errors.clear()
    page.open(f"{served.address}/docs")
    page.wait_for("/v1/ask")
    assert page.hosts() == {served.address.removeprefix("http://")}
    assert page.errors == []
    assert page.stopped() == []


def test_a_moment_is_found_played_and_asked_about(page: Page, searchable_project: Path) -> None:
    with running_server(searchable_project) as server:
        page.set_window(WIDE)
        page.open("about:blank")
        page.errors.clear()
        page.requests.clear()
        page.open(f"{server.address}/#search")
        page.wait_for("Models:")
        click(page, "#search-submit")
        page.wait_for("Write what to look for first.")
        write(page, "#query", "a red square moves left")
        click(page, "#search-submit")
        page.wait_for("5 moments of 5 videos, best first")
        loaded = "[...document.querySelectorAll('.hit img')].every(each => each.complete && each.naturalWidth === 64)"
        page.evaluate("document.querySelectorAll('.hit img').forEach(each => { each.loading = 'eager' })")
        page.wait_for("a long one.mp4")
        assert page.evaluate(loaded)
        check(page, server)
        spans = page.evaluate("[...document.querySelectorAll('.hit .range')].map(each => each.innerText)")
        assert "picture" in spans
        open_hit = "[...document.querySelectorAll('.hit button')].find(each => each.innerText.includes({!r})).click()"
        page.evaluate(open_hit.format("red.png"))
        page.wait_for("Ask about this picture")
        assert page.evaluate("document.querySelector('#watch-picture').naturalWidth") == 64
        click(page, "#watch-close")
        page.evaluate(open_hit.format("a long one"))
        page.wait_for("Ask about this moment")
        start = float(str(page.evaluate("document.querySelector('#watch-video').src")).split("#t=")[1].split(",")[0])
        page.wait_for("score")
        assert page.evaluate("document.querySelector('#watch-video').currentTime") >= start
        assert page.accessibility_faults() == []
        click(page, "#watch-ask")
        page.wait_for("from the library")
        assert float(page.evaluate("document.querySelector('#start').value")) == pytest.approx(start, abs=0.1)
        write(page, "#question", "what color is it?")
        click(page, "#submit")
        page.wait_for("Words that the answer rests on")
        check(page, server)
