"""Rows that fail checks, all of them: for new data that is checked against present data."""

import os
from dataclasses import dataclass
from typing import Any

os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

from clipbert.data.validation.checks import ROW_COLUMNS, Check
from clipbert.data.validation.plain import plain_row
from clipbert.data.validation.tables import Tables


@dataclass(frozen=True)
class Unmet:
    """Check that fails.

    Attributes:
        check: the name in `validate.severity`.
        severity: fail or warn.
        table: the table that was checked.
        column: the columns that were checked.
        rows: every failing row with the columns of ROW_COLUMNS and the checked ones; empty where a check is about the
            table as a whole.
        remedy: what to do.
        success: whether few enough rows fail.
    """

    check: str
    severity: str
    table: str
    column: str
    rows: list[dict[str, Any]]
    remedy: str
    success: bool


def find_unmet(gate: list[Check], tables: Tables) -> list[Unmet]:
    """Run the checks and return those that a row fails, also where the check allows a share of failing rows."""
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars={"globally": False},
        analytics_enabled=False,
    )
    context = gx.get_context(project_config=config, mode="ephemeral")
    source = context.data_sources.add_pandas("inbox")
    found: dict[int, Unmet] = {}
    for table, frame in tables.frames.items():
        chosen = [(position, check) for position, check in enumerate(gate) if check.table == table]
        if not chosen:
            continue
        batch = (
            source.add_dataframe_asset(table)
            .add_batch_definition_whole_dataframe("all")
            .get_batch({"dataframe": frame})
        )
        suite = gx.ExpectationSuite(table)
        for position, check in chosen:
            check.expectation.meta = {"position": position}
            suite.add_expectation(check.expectation)
        columns = {"unexpected_index_column_names": ROW_COLUMNS[table]}
        results = batch.validate(suite, result_format={"result_format": "COMPLETE", **columns}).results
        for result in results:
            rows = [plain_row(row) for row in result.result.get("unexpected_index_list") or []]
            if result.success and not rows:
                continue
            check = gate[result.expectation_config.meta["position"]]
            kwargs = result.expectation_config.kwargs
            names = [kwargs.get(key) for key in ("column", "column_A", "column_B")]
            checked = [name for name in names if name] or kwargs.get("column_list", [])
            found[result.expectation_config.meta["position"]] = Unmet(
                check.name, check.severity, table, ", ".join(checked), rows, check.remedy, bool(result.success)
            )
    return [found[position] for position in sorted(found)]
