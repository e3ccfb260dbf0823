"""The page of a validation: every expectation with its result, near-duplicates with their frames, drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipbert.data.annotations import SPLITS
from clipbert.pages.page import render_page

SHOWN_PAIRS = 20
BINS, BAR_HEIGHT = 24, 64
TEMPLATE, STYLES = "validation.html.j2", "validation.css"


@dataclass(frozen=True)
class Result:
    """What the page shows of one check: expectations with the same result, once, with all their columns."""

    check: str
    severity: str
    expectation: str
    columns: list[str]
    success: bool
    unexpected: int
    checked: int
    allowed: float


def write_page(
    folder: Path,
    result: dict[str, Any],
    videos: pd.DataFrame,
    texts: pd.DataFrame,
    pictures: Mapping[str, str] | None = None,
) -> None:
    """Write `folder`/index.html from the content of result.json and the manifest, with links to the other pages.

    Args:
        pictures: the frames of media in pairs of near-duplicates, as `data:` URLs.
    """
    expectations = result["expectations"]
    found = sorted((folder / "data_docs" / "validations").glob("*/*/*/*.html"))
    page = render_page(
        "clipbert.data.validation",
        TEMPLATE,
        (STYLES,),
        total=len(expectations),
        failed=sum(not one["success"] and one["severity"] == "fail" for one in expectations),
        warnings=sum(not one["success"] and one["severity"] == "warn" for one in expectations),
        result=result,
        wrong=[one for one in expectations if not one["success"]],
        groups=[(table, merged([one for one in expectations if one["table"] == table])) for table in result["rows"]],
        near=near_media(result["near_duplicates"]["closest"][:SHOWN_PAIRS]),
        pictures=pictures or {},
        splits=_splits(videos, texts),
        charts=_charts(videos, texts),
        pages={path.stem.removeprefix("manifest-"): path.relative_to(folder).as_posix() for path in found},
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def merged(expectations: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Return the expectations of one table, those of a check that differ in the column alone as one."""
    found: dict[tuple[Any, ...], Result] = {}
    for one in expectations:
        words = one["expectation"].removeprefix("expect_").replace("_", " ")
        facts = (one["success"], one["unexpected_count"], one["checked_rows"], one["allowed_share"])
        key = (one["check"], words, *facts)
        if key not in found:
            found[key] = Result(one["check"], one["severity"], words, [], *facts)
        if one["column"] not in found[key].columns:
            found[key].columns.append(one["column"])
    return list(found.values())


def near_media(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return pairs of near-duplicates by their first media, which is listed once: {media, split, others}."""
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        entry = found.setdefault(pair["media"], {"media": pair["media"], "split": pair["split"], "others": []})
        entry["others"].append({name: pair[name] for name in ("near_media", "near_split", "distance")})
    return list(found.values())


def _splits(videos: pd.DataFrame, texts: pd.DataFrame) -> list[tuple[str, int, int, float]]:
    """Return for each split its name, number of media, number of texts and minutes."""
    rows = []
    for split in SPLITS:
        of_split = videos[(videos["split"] == split)]
        minutes = of_split.loc[of_split["kind"] == "video", "duration_s"].sum() / 60
        rows.append((split, len(of_split), int((texts["split"] == split).sum()), float(minutes)))
    return rows


def _charts(videos: pd.DataFrame, texts: pd.DataFrame) -> list[dict[str, Any]]:
    """Return histograms as bars of height 0 to `BAR_HEIGHT`, with the ends of their axis."""
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
        bars = [BAR_HEIGHT * float(count / counts.max()) for count in counts]
        charts.append({"title": title, "span": span, "bars": bars, "height": BAR_HEIGHT})
    return charts
