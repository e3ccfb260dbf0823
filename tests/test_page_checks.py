"""The checks of HTML pages in a browser: a page with one fault of each kind, and one without."""

from pathlib import Path

import pytest
from browser import browser_page, find_chromium, page_faults

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")]

GOOD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><main><h1>A page</h1></main></html>"""
PLANTED = """<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">
<p style="color: #bbb; width: 600px">pale and wide</p>
<script>
console.error("planted error"); fetch("http://foreign.invalid/x").catch(() => 0); nothing.here
</script></main>"""


def test_planted_faults_are_found_and_a_good_page_has_none(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("</main>", PLANTED))
    with browser_page(tmp_path) as page:
        assert page_faults(page, good, "A page") == []
        found = page_faults(page, bad, "pale")
    assert [line for line in found if "the content is" in line] == [
        f"bad.html, 390 pixels, {scheme}: the content is 608 pixels wide" for scheme in ("light", "dark")
    ]
    assert any("image-alt (critical)" in line for line in found)
    assert any("color-contrast (serious)" in line and "pale and wide" in line for line in found)
    assert "bad.html: planted error" in found
    assert any("nothing is not defined" in line for line in found)
    assert "bad.html asks for http://foreign.invalid/x" in found
