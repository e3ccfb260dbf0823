"""The page a person opens first: every expectation with its verdict, readable without a network."""

from pathlib import Path
from typing import Any

import jinja2


def write_page(folder: Path, result: dict[str, Any]) -> None:
    """Write `folder`/index.html from the content of result.json, linking to the Data Docs below `folder`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipbert.data", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    expectations = result["expectations"]
    found = sorted((folder / "data_docs" / "validations").glob("*/*/*/*.html"))
    page = environment.get_template("validation.html.j2").render(
        total=len(expectations),
        failed=sum(not one["success"] for one in expectations),
        counts=result["rows"],
        groups=[(table, [one for one in expectations if one["table"] == table]) for table in result["rows"]],
        pages={path.stem.removeprefix("manifest-"): path.relative_to(folder).as_posix() for path in found},
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
