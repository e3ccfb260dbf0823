"""The Data Docs of Great Expectations made self-contained: own styles, no scripts, readable on a phone."""

import html
import re
import shutil
from importlib.resources import files
from pathlib import Path

from clipbert.pages.page import colors

SOURCE = "manifest"  # the name of the data source, whose assets are its tables

# External resources of the pages of Great Expectations, and elements that need them.
_FOREIGN = re.compile(
    r'<script\b[^>]*\bsrc="(?:https?:)?//[^>]*>\s*</script>|<link\b[^>]*\bhref="(?:https?:)?//[^>]*>'
    r'|<img\b[^>]*\bsrc="(?:https?:)?//[^>]*>|<script\b(?![^>]*\bsrc=).*?</script>',
    re.DOTALL,
)
_LINK = re.compile(r'<a\b[^>]*\bhref="(?:https?:)?//[^>]*>(.*?)</a>', re.DOTALL)
_ICON = re.compile(r'<link\b[^>]*rel="(?:shortcut icon|stylesheet)"[^>]*>')
_INDEX_TABLE = re.compile(r'<table\s[^>]*ge-index-page-(validation-results|expectation_suites)-table"[^>]*>\s*</table>')
_STYLE = re.compile(r"<style\b.*?</style>", re.DOTALL)
_HTML = re.compile(r"<html\b[^>]*>")
_SCROLLED = re.compile(r'<div class="show-scrollbars"')
_ASSET = re.compile(r"(Data asset:) None")
_FAILED = re.compile(r"Status:</span>\s*<i[^>]*></i>\s*Failed")
_ADDRESS = re.compile(r"https?://[^\s\"'<>)]+")


def bundle_styles(docs: Path) -> None:
    """Make the Data Docs below `docs` self-contained: own styles, no scripts, an index in HTML.

    Their scripts, fonts and logo, which the pages then no longer use, are removed. Pages of validations name their data
    asset, which Great Expectations 1.24 leaves out.
    """
    own = files("clipbert.data.validation").joinpath("validation_docs.css").read_text(encoding="utf-8")
    styles = f"<style>\n{colors()}{own}</style>\n</head>"
    for page in sorted(docs.rglob("*.html")):
        text = _LINK.sub(r"\1", _FOREIGN.sub("", _STYLE.sub("", page.read_text(encoding="utf-8"))))
        text = _ADDRESS.sub("", _ICON.sub("", text)).replace("</head>", styles, 1)
        text = _HTML.sub('<html lang="en">', text, count=1)
        text = _SCROLLED.sub('<div tabindex="0" class="show-scrollbars"', text)  # so that a keyboard can scroll it
        if page.parts[len(docs.parts)] == "validations":
            asset = page.stem.removeprefix(f"{SOURCE}-")
            text = _ASSET.sub(rf"\1 {html.escape(SOURCE)} / {html.escape(asset)}", text)
        page.write_text(text, encoding="utf-8")
    shutil.rmtree(docs / "static", ignore_errors=True)
    index = docs / "index.html"
    index.write_text(_INDEX_TABLE.sub(lambda empty: _index_table(docs, empty[1]), index.read_text("utf-8")), "utf-8")


def _index_table(docs: Path, kind: str) -> str:
    """Return the pages of a kind as a table of links, which a script of the original page would make."""
    folder = {"validation-results": "validations", "expectation_suites": "expectations"}[kind]
    head = ("data asset", "run", "result") if folder == "validations" else ("expectation suite",)
    rows = ["<tr>", *(f'<th scope="col">{name}</th>' for name in head), "</tr>"]
    for page in sorted((docs / folder).rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        below = page.relative_to(docs / folder).with_suffix("").parts
        link = f'<a href="{html.escape(page.relative_to(docs).as_posix())}">{html.escape(below[0])}</a>'
        cells = [link]
        if folder == "validations":
            cells += [html.escape(below[1]), "✗ failed" if _FAILED.search(text) else "✓ succeeded"]
        rows += ["<tr>", *(f"<td>{cell}</td>" for cell in cells), "</tr>"]
    return f"<table>{''.join(rows)}</table>"
