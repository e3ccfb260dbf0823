"""Self-contained pages: what their content security policy allows, and that text stays text."""

import base64
import hashlib
import html
import re
import sys
from pathlib import Path

import pytest

from clipbert.pages.page import render_page


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "pages_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.html.j2").write_text(
        "{% extends page_layout %}{% block title %}{{ name }}{% endblock %}"
        "{% block content %}<p>{{ name }}</p>{% endblock %}"
    )
    (folder / "one.css").write_text("p { margin: 0 }")
    (folder / "one.js").write_text("document.title += '!'")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pages_of_a_test", raising=False)
    return "pages_of_a_test"


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_nothing_else(package: str) -> None:
    page = render_page(package, "one.html.j2", ("one.css",), "one.js", name="a <b>")
    assert page.count("a &lt;b&gt;") == 2
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html.unescape(page))
    hashes = [
        base64.b64encode(hashlib.sha256(re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0].encode()).digest())
        for tag in ("style", "script")
    ]
    style, script = (value.decode() for value in hashes)
    assert policy == (f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'")
    assert "p { margin: 0 }" in page


def test_a_page_without_a_script_may_run_none(package: str) -> None:
    page = render_page(package, "one.html.j2", name="x")
    assert "<script" not in page
    assert "script-src" not in page
