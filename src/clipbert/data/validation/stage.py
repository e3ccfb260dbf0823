"""Stage validate: run Great Expectations on the manifest; failures stop the pipeline."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

from clipbert.config.data import ValidateParams
from clipbert.console import console
from clipbert.data.manifest import read_texts, read_videos
from clipbert.data.validation import drift
from clipbert.data.validation.checks import ROW_COLUMNS, Check, checks
from clipbert.data.validation.data_docs import SOURCE, bundle_styles
from clipbert.data.validation.plain import plain_row
from clipbert.data.validation.report import SHOWN_PAIRS, write_page
from clipbert.data.validation.segments import ClipSettings
from clipbert.data.validation.summary import explain, passed, warn
from clipbert.data.validation.tables import Tables, make_tables
from clipbert.data.validation.thumbnails import thumbnails
from clipbert.data.validation.truncation import TextLimit
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, sha256_file
from clipbert.files.checksums import CHECKSUMS, write_checksums

SHOWN_ROWS = 5
LISTED_PAIRS = 1000
PAIRS_FILE = "near_duplicates.csv"
BASELINE = "baseline"


@dataclass(frozen=True)
class Outcome:
    """Result of one expectation: an entry of result.json."""

    check: str
    severity: str
    table: str
    expectation: str
    column: str
    success: bool
    checked_rows: int
    unexpected_count: int
    allowed_share: float
    failing_rows: list[dict[str, Any]]
    remedy: str


def validate(
    manifest_dir: Path,
    out: Path,
    params: ValidateParams,
    max_answers: int = 1500,
    limit: TextLimit | str = "no tokenizer was given",
    settings: ClipSettings | None = None,
    data: Path | None = None,
) -> None:
    """Check the manifest and write `out`, also when a check fails.

    `out` holds index.html, result.json, data_docs/, near_duplicates.csv and baseline/ for the next comparison.

    Args:
        max_answers: how many of the most frequent training answers a model can give.
        limit: the tokenizer of the model and its text limit, or the reason why they are missing.
        settings: what decides the frames of a segment; None: segments are not checked.
        data: the folder with the media, of which the page shows near-duplicates; None: without pictures.

    Raises:
        ClipBertError: the manifest is missing, or a check fails: the message lists every failed check with its first
            rows and a remedy. The baseline is then unchanged.
    """
    videos, texts = read_videos(manifest_dir), read_texts(manifest_dir)
    today = drift.take(manifest_dir, videos, texts)
    baseline, kept = drift.choose(out / BASELINE, today)
    changes = None if baseline is None else drift.measure(baseline, today, params.drift)
    tables = make_tables(videos, texts, changes, params, max_answers, limit, settings)
    gate = [check for check in checks(params, tables.covered) if check.table in tables.frames]
    with atomic_directory(out) as folder:
        outcomes = _run(gate, tables, folder / "data_docs", _run_name(manifest_dir))
        result = _result(outcomes, tables, params)
        _keep_baseline(out / BASELINE, folder / BASELINE, kept if result["success"] else None)
        tables.near.to_csv(folder / PAIRS_FILE, index=False)
        bundle_styles(folder / "data_docs")
        closest = tables.near.head(SHOWN_PAIRS)
        shown = [*closest["media"], *closest["near_media"]]
        write_page(folder, result, videos, texts, thumbnails(data, videos, shown) if data is not None else None)
        (folder / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    warn(console, result)
    if not result["success"]:
        raise ClipBertError(explain(manifest_dir, out, result))
    passed(console, result, out)


def _result(outcomes: list[Outcome], tables: Tables, params: ValidateParams) -> dict[str, Any]:
    """Return the content of result.json."""
    held_out = tables.frames["videos"]["near_duplicates"]
    near = tables.near.head(LISTED_PAIRS)
    changes, cut = tables.frames.get("drift"), tables.frames.get("truncation")
    return {
        "success": all(outcome.success or outcome.severity == "warn" for outcome in outcomes),
        "rows": {table: len(frame) for table, frame in tables.frames.items()},
        "skipped": tables.skipped,
        "expectations": [asdict(outcome) for outcome in outcomes],
        "near_duplicates": {
            "media": int((held_out > 0).sum()),
            "of": int(held_out.notna().sum()),
            "max_near_duplicates": params.max_near_duplicates,
            "max_hash_distance": params.max_hash_distance,
            "pairs": len(tables.near),
            "closest": _plain_rows(near),
        },
        "truncation": None if cut is None else _plain_rows(cut),
        "drift": None if changes is None else changes.to_dict("records"),
    }


def _keep_baseline(old: Path, new: Path, kept: list[drift.Snapshot] | None) -> None:
    """Write the snapshots to keep; without any, keep the old ones."""
    new.mkdir()
    names = (drift.LAST, drift.BEFORE)
    if kept is None:
        for name in (*names, CHECKSUMS):
            if (old / name).is_file():
                shutil.copyfile(old / name, new / name)
        return
    for name, snapshot in zip(names, kept, strict=False):
        snapshot.write(new / name)
    write_checksums(new, new.glob("*.parquet"))


def _run_name(manifest_dir: Path) -> str:
    """Return the name of the run in the Data Docs, "manifest" and the start of the digest of its checksums."""
    checksums = manifest_dir / CHECKSUMS
    return f"{SOURCE}-{sha256_file(checksums)[:12]}" if checksums.is_file() else SOURCE


def _run(gate: list[Check], tables: Tables, docs: Path, name: str) -> list[Outcome]:
    """Run the checks table by table, as one run with a name, and render the pages into the folder `docs`."""
    context = _context(docs)
    source = context.data_sources.add_pandas(SOURCE)
    run = RunIdentifier(run_name=name, run_time=datetime.now(UTC))
    outcomes: dict[int, Outcome] = {}
    for table, frame in tables.frames.items():
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        suite = gx.ExpectationSuite(table)
        for position, check in enumerate(gate):
            if check.table == table:
                check.expectation.meta = {"position": position, "check": check.name, "severity": check.severity}
                check.expectation.notes = check.remedy
                suite.add_expectation(check.expectation)
        definition = gx.ValidationDefinition(name=table, data=batch, suite=context.suites.add(suite))
        context.validation_definitions.add(definition)
        rows = {"unexpected_index_column_names": ROW_COLUMNS[table], "partial_unexpected_count": SHOWN_ROWS}
        found = definition.run(
            batch_parameters={"dataframe": frame}, result_format={"result_format": "SUMMARY", **rows}, run_id=run
        )
        for result in found.results:
            position = result.expectation_config.meta["position"]
            outcomes[position] = _outcome(gate[position], result, len(frame), tables.near)
    context.build_data_docs()
    return [outcomes[position] for position in range(len(gate))]


def _context(docs: Path) -> Any:
    """Return an in-memory Great Expectations context, which only writes the pages."""
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


def _outcome(check: Check, result: Any, rows: int, near: pd.DataFrame) -> Outcome:
    config, found = result.expectation_config, result.result
    columns = [config.kwargs.get(key) for key in ("column", "column_A", "column_B")]
    columns = [column for column in columns if column] or config.kwargs.get("column_list", [])
    failing = [] if result.success else found.get("partial_unexpected_index_list") or []
    if check.name == "near_duplicates" and not result.success:
        failing = near.head(SHOWN_ROWS).to_dict("records")
    return Outcome(
        check=check.name,
        severity=check.severity,
        table=check.table,
        expectation=config.type,
        column=", ".join(columns),
        success=bool(result.success),
        checked_rows=int(found.get("element_count", rows)) - int(found.get("missing_count", 0)),
        unexpected_count=int(found.get("unexpected_count", 0)),
        allowed_share=round(1 - config.kwargs.get("mostly", 1.0), 6),
        failing_rows=[plain_row(row) for row in failing[:SHOWN_ROWS]],
        remedy=check.remedy if "unexpected_count" in found else f"It could not be computed: {result.exception_info}",
    )


def _plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [plain_row(row) for row in table.to_dict("records")]
