"""Stage validate: Great Expectations over the manifest, a hard gate with pages to read."""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

from clipbert.console import console
from clipbert.data.expectations import ROW_COLUMNS, Check, checks, tables
from clipbert.data.validation_page import write_page
from clipbert.data.manifest import read_texts, read_videos
from clipbert.errors import ClipBertError
from clipbert.files import atomic_directory
from clipbert.params import ValidateParams

SHOWN_ROWS = 5
SHOWN_VALUE = 80


@dataclass(frozen=True)
class Outcome:
    """How one expectation ended: an entry of result.json."""

    table: str
    expectation: str
    column: str
    severity: str
    success: bool
    checked_rows: int
    unexpected_count: int
    failing_rows: list[dict[str, Any]]
    remedy: str


def validate(manifest_dir: Path, out: Path, params: ValidateParams) -> None:
    """Check the manifest and write `out`/index.html, result.json and data_docs/, also when the gate fails.

    Raises:
        ClipBertError: there is no manifest; or it fails: every failing expectation with its first rows and what to do.
    """
    frames = tables(read_videos(manifest_dir), read_texts(manifest_dir))
    gate = checks(params)
    with atomic_directory(out) as folder:
        outcomes = _run(gate, frames, folder / "data_docs")
        success = all(outcome.success for outcome in outcomes)
        result = {
            "success": success,
            "rows": {table: len(frame) for table, frame in frames.items()},
            "expectations": [asdict(outcome) for outcome in outcomes],
        }
        write_page(folder, result)
        (folder / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not success:
        raise ClipBertError(_explain(manifest_dir, out, outcomes))
    console.print(f"validate: all {len(outcomes)} expectations hold; see {out / 'index.html'}", markup=False)


def _run(gate: list[Check], frames: dict[str, pd.DataFrame], docs: Path) -> list[Outcome]:
    """Run the gate table by table and render the pages into the folder `docs`."""
    context = _context(docs)
    source = context.data_sources.add_pandas("manifest")
    outcomes: dict[int, Outcome] = {}
    for table, frame in frames.items():
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        suite = gx.ExpectationSuite(table)
        for position, check in enumerate(gate):
            if check.table == table:
                check.expectation.meta = {"position": position}
                check.expectation.notes = check.remedy
                suite.add_expectation(check.expectation)
        definition = gx.ValidationDefinition(name=table, data=batch, suite=context.suites.add(suite))
        context.validation_definitions.add(definition)
        rows = {"unexpected_index_column_names": ROW_COLUMNS[table], "partial_unexpected_count": SHOWN_ROWS}
        found = definition.run(
            batch_parameters={"dataframe": frame}, result_format={"result_format": "SUMMARY", **rows}
        )
        for result in found.results:
            position = result.expectation_config.meta["position"]
            outcomes[position] = _outcome(gate[position], result, len(frame))
    context.build_data_docs()
    return [outcomes[position] for position in range(len(gate))]


def _context(docs: Path) -> Any:
    """A Great Expectations context in memory, whose only files are the pages."""
    site = {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites={"validation": site},
        progress_bars={"globally": False},
        analytics_enabled=False,
    )
    return gx.get_context(project_config=config, mode="ephemeral")


def _outcome(check: Check, result: Any, rows: int) -> Outcome:
    config, found = result.expectation_config, result.result
    columns = [config.kwargs.get(key) for key in ("column", "column_A", "column_B")]
    columns = [column for column in columns if column] or config.kwargs.get("column_list", [])
    failing = [] if result.success else found.get("partial_unexpected_index_list") or []
    return Outcome(
        table=check.table,
        expectation=config.type,
        column=", ".join(columns),
        severity=str(getattr(config.severity, "value", config.severity)),
        success=bool(result.success),
        checked_rows=int(found.get("element_count", rows)),
        unexpected_count=int(found.get("unexpected_count", 0)),
        failing_rows=[{key: _plain(value) for key, value in row.items()} for row in failing[:SHOWN_ROWS]],
        remedy=check.remedy if "unexpected_count" in found else f"It could not be computed: {result.exception_info}",
    )


def _plain(value: Any) -> Any:
    """A value as JSON holds it, long texts cut."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= SHOWN_VALUE else f"{text[: SHOWN_VALUE - 3]}..."


def _explain(manifest_dir: Path, out: Path, outcomes: list[Outcome]) -> str:
    failed = [outcome for outcome in outcomes if not outcome.success]
    lines = [f"{manifest_dir}: the data fails {len(failed)} of {len(outcomes)} checks."]
    for outcome in failed:
        lines.append(
            f"  {outcome.table}: {outcome.expectation} ({outcome.column}): "
            f"{outcome.unexpected_count} of {outcome.checked_rows} rows"
        )
        for row in outcome.failing_rows:
            lines.append("    " + ", ".join(f"{key}={value}" for key, value in row.items()))
        lines.append(f"    {outcome.remedy}")
    lines.append(f"Mend data/ and run the stages again. All checks: {out / 'index.html'}")
    return "\n".join(lines)
