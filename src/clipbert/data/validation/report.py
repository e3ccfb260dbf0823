"""HTML pages of a validation: every expectation with its result, near-duplicates, drift; readable without a network."""

import html
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from clipbert.data.annotations import SPLITS

SHOWN_PAIRS = 20
BINS = 24

# External resources of the pages of Great Expectations, and elements that need them.
_FOREIGN = re.compile(
    r'<script\b[^>]*\bsrc="(?:https?:)?//[^>]*>\s*</script>|<link\b[^>]*\bhref="(?:https?:)?//[^>]*>'
    r'|<img\b[^>]*\bsrc="(?:https?:)?//[^>]*>|<script\b(?![^>]*\bsrc=).*?</script>',
    re.DOTALL,
)
_LINK = re.compile(r'<a\b[^>]*\bhref="(?:https?:)?//[^>]*>(.*?)</a>', re.DOTALL)
_ICON = re.compile(r'<link\b[^>]*rel="(?:shortcut icon|stylesheet)"[^>]*>')
_INDEX_TABLE = re.compile(r'<table\s[^>]*ge-index-page-(validation-results|expectation_suites)-table"[^>]*>\s*</table>')
_FAILED = re.compile(r"Status:</span>\s*<i[^>]*></i>\s*Failed")
_ADDRESS = re.compile(r"https?://[^\s\"'<>)]+")


def bundle_styles(docs: Path) -> None:
    """Make the Data Docs below `docs` self-contained: own styles, no scripts, an index in HTML.

    Their scripts, fonts and logo, which the pages then no longer use, are removed.
    """
    styles = files("clipbert.data.validation").joinpath("validation_docs.css").read_text(encoding="utf-8")
    for page in sorted(docs.rglob("*.html")):
        text = _LINK.sub(r"\1", _FOREIGN.sub("", page.read_text(encoding="utf-8")))
        text = _ADDRESS.sub("", _ICON.sub("", text)).replace("</head>", f"<style>\n{styles}</style>\n</head>", 1)
        page.write_text(text, encoding="utf-8")
    shutil.rmtree(docs / "static", ignore_errors=True)
    index = docs / "index.html"
    index.write_text(_INDEX_TABLE.sub(lambda empty: _index_table(docs, empty[1]), index.read_text("utf-8")), "utf-8")


def _index_table(docs: Path, kind: str) -> str:
    """Return the pages of a kind as a table of links, which a script of the original page would make."""
    folder = {"validation-results": "validations", "expectation_suites": "expectations"}[kind]
    rows = []
    for page in sorted((docs / folder).rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        verdict = ("✗ failed" if _FAILED.search(text) else "✓ succeeded") if folder == "validations" else ""
        name = page.relative_to(docs / folder).with_suffix("").parts[0]
        link = page.relative_to(docs).as_posix()
        rows.append(f'<tr><td><a href="{html.escape(link)}">{html.escape(name)}</a></td><td>{verdict}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def write_page(folder: Path, result: dict[str, Any], videos: pd.DataFrame, texts: pd.DataFrame) -> None:
    """Write `folder`/index.html from the content of result.json and the manifest, with links to the other pages."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipbert.data.validation", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    expectations = result["expectations"]
    found = sorted((folder / "data_docs" / "validations").glob("*/*/*/*.html"))
    page = environment.get_template("validation.html.j2").render(
        total=len(expectations),
        failed=sum(not one["success"] and one["severity"] == "fail" for one in expectations),
        warnings=sum(not one["success"] and one["severity"] == "warn" for one in expectations),
        result=result,
        wrong=[one for one in expectations if not one["success"]],
        groups=[(table, [one for one in expectations if one["table"] == table]) for table in result["rows"]],
        pairs=result["near_duplicates"]["closest"][:SHOWN_PAIRS],
        splits=_splits(videos, texts),
        charts=_charts(videos, texts),
        pages={path.stem.removeprefix("manifest-"): path.relative_to(folder).as_posix() for path in found},
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _splits(videos: pd.DataFrame, texts: pd.DataFrame) -> list[tuple[str, int, int, float]]:
    """Return for each split its name, number of media, number of texts and minutes."""
    rows = []
    for split in SPLITS:
        of_split = videos[(videos["split"] == split)]
        minutes = of_split.loc[of_split["kind"] == "video", "duration_s"].sum() / 60
        rows.append((split, len(of_split), int((texts["split"] == split).sum()), float(minutes)))
    return rows


def _charts(videos: pd.DataFrame, texts: pd.DataFrame) -> list[dict[str, Any]]:
    """Return histograms as bars of height 0 to 1, with the ends of their axis."""
    clips = videos[videos["kind"] == "video"]
    measured = (
        ("duration", "s", clips["duration_s"]),
        ("text length", "characters", texts["text"].str.len()),
        ("short side", "pixels", videos[["width", "height"]].min(axis=1)),
        ("brightness", "of 255", videos["brightness"]),
        ("motion", "of 255", clips["motion"]),
    )
    charts = []
    for title, unit, values in measured:
        known = values.dropna().to_numpy(float)
        known = known[np.isfinite(known)]
        if not len(known):
            continue
        counts, _ = np.histogram(known, BINS)
        median = float(np.median(known))
        span = f"{known.min():.4g} to {known.max():.4g} {unit}, median {median:.4g}"
        charts.append({"title": title, "span": span, "bars": [float(count / counts.max()) for count in counts]})
    return charts
