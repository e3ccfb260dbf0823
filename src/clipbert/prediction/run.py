"""Prediction of a whole table: in blocks that are kept, so that a run that was stopped continues where it was."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clipbert.console import console, progress
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_write, sha256_file
from clipbert.files.checksums import CHECKSUMS
from clipbert.files.locks import Timeout, file_lock
from clipbert.inference.pipelines import pipeline
from clipbert.prediction.block import Block, BlockPredictor, Result, make_blocks
from clipbert.prediction.table import ERROR, check_suffix, read_table, write_table

VIDEOS_IN_BLOCK = 32
SHOWN_ERRORS = 5
PLAN = "plan.json"


class Predictor(Protocol):
    """What makes the results of blocks, in order: this process, or a cluster."""

    def predict(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, list[Result]]]:
        """Yield each block with the results of its rows."""

    def close(self) -> None:
        """Stop."""


@dataclass(frozen=True)
class Summary:
    """Result of a prediction.

    Attributes:
        rows: of the table.
        failed: rows with an error.
        errors: the first of them, "row N: ...".
        kept: rows that were predicted by an earlier run.
    """

    rows: int
    failed: int
    errors: tuple[str, ...]
    kept: int


def predict_table(
    folder: Path, task: str, source: Path, output: Path, media: Path | None = None, executor: str = "local"
) -> Summary:
    """Predict each row of a table and write it with the results as another table.

    The blocks of an unfinished run are in the folder `.NAME.parts` next to the output and are used again if the model,
    the table and the settings are the same. A row whose video or text cannot be used gets its error in the column
    `error`; the others are not affected.

    Args:
        folder: of the model.
        source: the table, see `read_table`.
        output: the table to write, by its ending .csv, .tsv, .jsonl or .parquet.
        media: the folder of relative paths; None: that of the table.
        executor: "local", or the address of a Dask scheduler, dask://HOST:PORT, whose workers see the model folder and
            the videos under the same paths.

    Raises:
        ClipBertError: a table or the model that cannot be used, an output that cannot be written or that another
            process writes, or a cluster that is lost.
    """
    check_suffix("--output", output)
    rows = read_table(source, task)
    base = (source.parent if media is None else media).absolute()
    if not base.is_dir():
        raise ClipBertError(f"--media {media}: not a folder: expected the folder of the videos' relative paths.")
    blocks = make_blocks(rows, VIDEOS_IN_BLOCK)
    parts = output.parent / f".{output.name}.parts"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file_lock(output.parent / f".{output.name}.lock"):
            kept = _open_parts(parts, _fingerprint(folder, task, source, base), [block.number for block in blocks])
            _predict_rest(folder, task, base, executor, blocks, kept, parts)
            results = _merge(blocks, parts, len(rows))
            write_table(output, [row | result for row, result in zip(rows, results, strict=True)])
            shutil.rmtree(parts)
    except Timeout as error:
        raise ClipBertError(f"--output {output}: another process is writing it. Wait for it, or stop it.") from error
    errors = [f"row {place + 1}: {result[ERROR]}" for place, result in enumerate(results) if result[ERROR]]
    earlier = sum(len(block.places) for block in blocks if block.number in kept)
    return Summary(len(rows), len(errors), tuple(errors[:SHOWN_ERRORS]), earlier)


def _predict_rest(
    folder: Path, task: str, media: Path, executor: str, blocks: list[Block], kept: set[int], parts: Path
) -> None:
    """Predict the blocks that are not kept, and keep each as soon as it is done."""
    rest = [block for block in blocks if block.number not in kept]
    done = sum(len(block.places) for block in blocks if block.number in kept)
    if done:
        console.print(f"{done} rows were predicted by an earlier run")
    if not rest:
        return
    predictor = _predictor(folder, task, media, executor)
    try:
        with progress(f"predict {task}", sum(len(block.places) for block in blocks), done) as advance:
            for block, results in predictor.predict(rest):
                with atomic_write(_part(parts, block.number), "w") as file:
                    json.dump(results, file)
                advance(len(results), "")
    finally:
        predictor.close()


def _predictor(folder: Path, task: str, media: Path, executor: str) -> Predictor:
    if executor == "local":
        return BlockPredictor(pipeline(task, folder), media)
    from clipbert.prediction.cluster import DaskPredictor

    return DaskPredictor(executor, folder.absolute(), task, media)


def _fingerprint(folder: Path, task: str, source: Path, media: Path) -> str:
    """Return a digest of all that decides the results."""
    sums = folder / CHECKSUMS
    model = sha256_file(sums if sums.is_file() else folder / "config.json")
    what = [model, task, sha256_file(source), source.suffix.lower(), str(media), VIDEOS_IN_BLOCK]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _open_parts(parts: Path, fingerprint: str, numbers: list[int]) -> set[int]:
    """Return the numbers of the blocks that an earlier run with the same fingerprint made; empty the folder else."""
    plan = parts / PLAN
    try:
        same = json.loads(plan.read_text(encoding="utf-8")) == {"fingerprint": fingerprint}
    except (OSError, ValueError):
        same = False
    if same:
        return {number for number in numbers if _part(parts, number).is_file()}
    if parts.exists():
        console.print("An unfinished run was of another model, table or folder of videos; it starts again.")
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    with atomic_write(plan, "w") as file:
        json.dump({"fingerprint": fingerprint}, file)
    return set()


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.json"


def _merge(blocks: list[Block], parts: Path, rows: int) -> list[Result]:
    """Return the results of all rows, in the order of the table."""
    found: list[Any] = [None] * rows
    for block in blocks:
        results = json.loads(_part(parts, block.number).read_text(encoding="utf-8"))
        for place, result in zip(block.places, results, strict=True):
            found[place] = result
    return found
