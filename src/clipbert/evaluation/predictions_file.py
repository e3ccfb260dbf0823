"""The predictions of an evaluation as a parquet file with a checksum and the metrics computed from it.

Parquet has no checksum of a whole file. The metadata hold a SHA-256 of the content (names, types, every value) and of
the other metadata, including the metrics. A changed byte that changes any of these is detected on reading.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_write

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DIGEST, METRICS = b"clipbert.sha256", b"clipbert.metrics"
WRITTEN_BY_PANDAS = {b"pandas", b"PANDAS_ATTRS"}
REMEDY = "Evaluate again: clipbert evaluate {task}"


def write_predictions(path: Path, items: "pd.DataFrame", metrics: Mapping[str, float]) -> None:
    """Write the predictions, one row per test item, with their metrics."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(items, preserve_index=False)
    kept = json.dumps(dict(metrics), sort_keys=True).encode()
    metadata = (table.schema.metadata or {}) | {METRICS: kept}
    metadata[DIGEST] = _digest(table, metadata).encode()
    with atomic_write(path) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)


def read_predictions_file(path: Path, task: str | None = None) -> tuple["pd.DataFrame", dict[str, float] | None]:
    """Return the predictions and the metrics of an evaluation; the metrics are None in a file without a checksum.

    Args:
        task: its name for the messages; None: that of the file.

    Raises:
        ClipBertError: the file is missing, unreadable, damaged, or of another task.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = REMEDY.format(task=task or path.stem)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        metadata = table.schema.metadata or {}
        if DIGEST in metadata:
            if _digest(table, metadata).encode() != metadata[DIGEST]:
                raise ValueError("its content does not match its checksum")
            metrics = json.loads(metadata[METRICS])
            other = next((name for name in metrics if task and not name.startswith(f"{task}/")), None)
            if other is not None:
                raise ClipBertError(
                    f"{path}: expected predictions of {task}, found those of {other.partition('/')[0]} (its metrics "
                    f"have {other}). {remedy}"
                )
            return table.to_pandas(), metrics
        if unknown := metadata.keys() - WRITTEN_BY_PANDAS:
            raise ValueError(f"unexpected metadata {sorted(unknown)[0]!r}")
        return table.to_pandas(), None
    except FileNotFoundError as error:
        raise ClipBertError(f"{path}: not found. {remedy}") from error
    except (OSError, ValueError, TypeError, KeyError, MemoryError, pa.ArrowException) as error:
        raise ClipBertError(f"{path}: expected a table of predictions; damaged ({_short(error)}). {remedy}") from error


def check_metrics(path: Path, metrics: Mapping[str, float], stored: Mapping[str, float] | None) -> None:
    """Check the metrics of the file `path` against those stored with the predictions, if there are any.

    Raises:
        ClipBertError: they differ.
    """
    if stored is None:
        return
    differing = sorted(name for name in metrics.keys() | stored.keys() if metrics.get(name) != stored.get(name))
    if differing:
        name = differing[0]
        raise ClipBertError(
            f"{path}: {name} is {metrics.get(name)}, but the evaluation computed {stored.get(name)} from its "
            f"predictions: the file is damaged, edited or of another evaluation. {REMEDY.format(task=path.stem)}"
        )


def _digest(table: "pa.Table", metadata: Mapping[bytes, bytes]) -> str:
    found = hashlib.sha256(repr(sorted((key, value) for key, value in metadata.items() if key != DIGEST)).encode())
    for field in table.schema:
        kind = str(field.type).replace("item:", "element:")  # Arrow and Parquet name the entries of a list differently
        found.update(f"{field.name}\n{kind}\n".encode())
        found.update(json.dumps(table[field.name].to_pylist(), default=str).encode())
    return found.hexdigest()


def _short(error: Exception) -> Any:
    return (str(error) or type(error).__name__).splitlines()[0]
