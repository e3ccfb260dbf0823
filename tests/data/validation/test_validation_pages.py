"""The pages of a validation: near-duplicates with their frames, no repeated rows, named assets and runs, any width."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from browser import Page, browser_page, find_chromium, page_faults

from clipbert.config.data import ValidateParams
from clipbert.data.manifest import VIDEOS_FILE, VIDEOS_SCHEMA, sign, write_table
from clipbert.data.validation.report import merged, near_media
from clipbert.data.validation.stage import validate
from clipbert.data.validation.thumbnails import thumbnails

PARAMS = ValidateParams(min_train_videos=0, max_near_duplicates=1.0)
COPIED = ("looks", "brightness", "motion", "duration_s")


@pytest.fixture(scope="module")
def validation(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation of a manifest in which two test videos look like a training video, one of which is gone."""
    root = tmp_path_factory.mktemp("validation")
    manifest = root / "manifest"
    shutil.copytree(tiny_project / "artifacts" / "manifest", manifest)
    rows = pq.read_table(manifest / VIDEOS_FILE).to_pylist()
    by_split = {
        split: [row for row in rows if row["split"] == split and row["kind"] == "video"] for split in ("train", "test")
    }
    first, (second, third) = by_split["train"][0], by_split["test"][:2]
    for row in (second, third):
        row |= {name: first[name] for name in COPIED}
    second["media"] = "videos/gone.mp4"
    with write_table(manifest / VIDEOS_FILE, VIDEOS_SCHEMA) as table:
        for row in rows:
            table.add(row)
    sign(manifest)
    validate(manifest, root / "out", PARAMS.model_copy(update={"severity": warnings()}), data=tiny_project / "data")
    return root / "out"


def warnings() -> object:
    """Every check is a warning: the manifest with a renamed video has texts about none."""
    severity = PARAMS.severity
    return severity.model_copy(update=dict.fromkeys(type(severity).model_fields, "warn"))


@pytest.mark.slow
def test_near_duplicates_show_frames_and_a_lost_file_its_name_alone(validation: Path) -> None:
    page = (validation / "index.html").read_text()
    near = page[page.index('<ul class="near">') : page.index("Drift since")]
    assert near.count("data:image/webp;base64,") == near.count("<img") == 3
    assert near.count("videos/gone.mp4") == 1
    assert not re.search(r'alt="[^"]*gone', near)


@pytest.mark.slow
def test_data_docs_name_assets_and_the_run(validation: Path) -> None:
    pages = list((validation / "data_docs" / "validations").rglob("*.html"))
    runs = {path.relative_to(validation / "data_docs" / "validations").parts[1:3] for path in pages}
    assert len(runs) == 1  # one run of all tables
    ((name, _),) = runs
    assert re.fullmatch(r"manifest-[0-9a-f]{12}", name)
    for path in pages:
        text = path.read_text()
        assert f"Data asset: manifest / {path.stem.removeprefix('manifest-')}<br>" in text
        assert "__none__" not in text
    index = (validation / "data_docs" / "index.html").read_text()
    assert index.count(f"<td>{name}</td>") == len(pages)


@pytest.mark.slow
def test_a_file_that_cannot_be_decoded_has_no_picture(tmp_path: Path, tiny_project: Path) -> None:
    videos = pq.read_table(tiny_project / "artifacts" / "manifest" / VIDEOS_FILE).to_pandas()
    good, bad = videos.loc[videos["kind"] == "video", "media"].head(2)
    (tmp_path / good).parent.mkdir(parents=True)
    shutil.copyfile(tiny_project / "data" / good, tmp_path / good)
    (tmp_path / bad).write_bytes(b"not a video")
    assert list(thumbnails(tmp_path, videos, [good, bad, good, "videos/missing.mp4"])) == [good]


def test_expectations_that_differ_in_the_column_alone_are_one_row() -> None:
    one = {
        "check": "schema",
        "severity": "fail",
        "expectation": "expect_column_values_to_not_be_null",
        "success": True,
        "unexpected_count": 0,
        "checked_rows": 6,
        "allowed_share": 0.0,
    }
    columns = [one | {"column": "media"}, one | {"column": "kind"}, one | {"column": "kind"}]
    failed = one | {"column": "fps", "success": False, "unexpected_count": 2}
    found = merged([*columns, failed])
    assert [(row.expectation, row.columns, row.unexpected) for row in found] == [
        ("column values to not be null", ["media", "kind"], 0),
        ("column values to not be null", ["fps"], 2),
    ]


def test_media_with_several_near_duplicates_are_listed_once() -> None:
    pairs = [
        {"media": "a", "split": "test", "near_media": other, "near_split": "train", "distance": distance}
        for other, distance in (("x", 1.0), ("y", 2.0))
    ]
    (entry,) = near_media(pairs)
    assert (entry["media"], [other["near_media"] for other in entry["others"]]) == ("a", ["x", "y"])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser_page(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium")
@pytest.mark.parametrize("kind", ["page", "index", "validations", "expectations"])
def test_the_pages_have_no_fault(page: Page, validation: Path, kind: str) -> None:
    docs = validation / "data_docs"
    path = {"page": validation / "index.html", "index": docs / "index.html"}.get(kind)
    path = path or next(found for found in (docs / kind).rglob("*.html") if found.stem.endswith("videos"))
    assert page_faults(page, path, "videos") == []
