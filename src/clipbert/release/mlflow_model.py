"""MLflow model of a registered ClipBERT: takes a table of videos and texts, returns a table of answers.

`clipbert.inference.pipelines` computes the scores; this module validates requests and formats tables. MLflow runs it as
the model's code (models from code): the weights are safetensors and nothing is unpickled.
"""

import json
import logging
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from torch import Tensor

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError, first_line
from clipbert.inference.pipelines import pipeline
from clipbert.release.media_access import MediaAccess, quoted
from clipbert.release.scoring_server import harden_scoring_server, requested_params
from clipbert.release.signatures import ERROR
from clipbert.sampling.segments import Segment
from clipbert.sampling.video_input import decode_input, frames_inside, input_name
from clipbert.tasks import task_class
from clipbert.tasks.presentation import TOP_K, Serving

logger = logging.getLogger(__name__)

FRAMES = ("fps", "size", "max_frames", "sampling", "timeout_s")
MAX_OPTIONS = 1000
MAX_ROWS = "CLIPBERT_MAX_ROWS"
DEFAULT_MAX_ROWS = 1000

Row = dict[str, Any]


class ServedClipBert(PythonModel):
    """ClipBERT behind MLflow's `predict`.

    `Task.serving` defines the columns. A row that fails has a message in the column `error` and no other values. A file
    that occurs in several rows is read once, also where they are about several segments of it.
    """

    def load_context(self, context: Any) -> None:
        """Load the model with the settings of its folder, which `load_model(..., model_config=)` overrides.

        Raises:
            ClipBertError: the model cannot be read, or an environment variable has an invalid value.
        """
        folder = Path(context.artifacts["model"])
        self.settings: dict[str, Any] = {"top_k": TOP_K, **context.model_config}
        self.task: str = self.settings["task"]
        self.served = task_class(self.task).serving
        self.access = MediaAccess.from_environment()
        self.max_rows = max_rows_from_environment()
        frames = FramesParams(**{name: self.settings[name] for name in FRAMES if name in self.settings})
        self.pipeline = pipeline(self.task, folder, frames=frames)
        self.pipeline.batch_size = self.settings["batch_size"]
        harden_scoring_server()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one output row for each input row, in the same order, with the same index.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE (status 400) for an unknown or invalid parameter, an input that is
                not a table, or too many rows; INTERNAL_ERROR (status 500) for any other error; its stack trace is
                logged.
        """
        try:
            chosen = self._params(params or {}, requested_params())
            table = _input_table(model_input, self.served)
            if len(table) > self.max_rows:
                raise ClipBertError(
                    f"the request has {len(table)} rows: expected at most {self.max_rows}, the server's {MAX_ROWS}. "
                    "Send the rows in several requests."
                )
            return self._answer_table(table, chosen)
        except (ClipBertError, ValueError) as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None
        except Exception:
            logger.exception("a request failed")
            raise MlflowException("Internal error; the server's log has the cause.", INTERNAL_ERROR) from None

    def _params(self, declared: Mapping[str, Any], requested: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of each parameter: the requested one or the default.

        Raises:
            ClipBertError: an unknown name, or a value out of range.
        """
        known = self.served.params
        if unknown := sorted(str(name) for name in {*declared, *requested} - known.keys()):
            raise ClipBertError(f"params.{unknown[0]}: unknown parameter; expected some of {', '.join(known)}.")
        chosen: dict[str, Any] = {}
        for name, value in declared.items():
            if value is None or value == self.settings[name]:
                continue
            low, high = known[name].low, known[name].high
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ClipBertError(f"params.{name} is {quoted(value)}: expected a number from {low:g} to {high:g}.")
            chosen[name] = value
        params: dict[str, Any] = self.pipeline.request_params({name: self.settings[name] for name in known}, chosen)
        return params

    def _answer_table(self, table: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        rows: list[Row] = [dict(zip(table.columns, values, strict=True)) for values in table.itertuples(index=False)]
        found: list[Row] = [{} for _ in rows]
        groups: dict[Any, dict[Segment | None, list[int]]] = {}
        for number, row in enumerate(rows):
            try:
                segment = _segment_of(row, self.served.segment_columns)
            except ValueError as error:
                found[number] = {ERROR: str(error)}
            else:
                groups.setdefault(_media_key(row[self.served.media]), {}).setdefault(segment, []).append(number)
        for segments in groups.values():
            media = rows[next(iter(segments.values()))[0]][self.served.media]
            encoded = self._encode(media, segments, params["clips"])
            for numbers, embeds in zip(segments.values(), encoded, strict=True):
                if isinstance(embeds, ClipBertError):
                    answers: list[Row] = [{ERROR: str(embeds)} for _ in numbers]
                else:
                    answers = self._answer_rows(embeds, [rows[number] for number in numbers], params)
                for number, answer in zip(numbers, answers, strict=True):
                    found[number] = answer
        return self._output_table(found, table.index)

    def _encode(self, media: Any, segments: Collection[Segment | None], clips: int) -> Iterator[Tensor | ClipBertError]:
        """Yield the visual tokens (1, K, V, hidden) of each segment of a file, or why there are none.

        The file is decoded once. Errors name the column and the client's value, without the server's folders.
        """
        column = self.served.media
        try:
            source = self.access.find(media)
        except ClipBertError as error:
            yield from [ClipBertError(f"{column} {error}")] * len(segments)
            return
        try:
            frames = decode_input(source, self.pipeline.frames)
        except (ClipBertError, ValueError, MemoryError) as error:
            yield from [self._for_client(error, media, source)] * len(segments)
            return
        for segment in segments:
            try:
                images = frames.images if segment is None else frames_inside(frames, segment, input_name(source))
                embeds: Tensor = self.pipeline.encode([images], clips)
            except (ClipBertError, ValueError, MemoryError) as error:
                yield self._for_client(error, media, source)
            else:
                yield embeds

    def _for_client(self, error: Exception, media: Any, source: Path | bytes) -> ClipBertError:
        """Log an error about a file, and return it as the client may see it."""
        reason = first_line(error)
        if isinstance(source, Path):
            reason = reason.replace(repr(str(source)), "the file").replace(str(source), "the file")
        logger.warning("%s %s: %s", self.served.media, quoted(media), error)
        return ClipBertError(f"{self.served.media} {quoted(media)}: {reason}")

    def _answer_rows(self, embeds: Tensor, rows: list[Row], params: dict[str, Any]) -> list[Row]:
        """Return the answers to rows about one video (1, K, V, hidden)."""
        columns = {name: kind for name, kind in self.served.inputs.items() if name != self.served.media}
        checked = [_checked_row(row, columns) for row in rows]
        valid = [row for row in checked if ERROR not in row]
        answers = iter(self.pipeline.answer_rows(embeds, valid, params) if valid else [])
        return [row if ERROR in row else next(answers) for row in checked]

    def _output_table(self, rows: list[Row], index: pd.Index) -> pd.DataFrame:
        """Return the rows as a table with None (null in JSON) for missing values."""
        columns = [*self.served.outputs, ERROR]
        for number, row in enumerate(rows):
            numbers = [value for value in row.values() if isinstance(value, float)]
            if not all(math.isfinite(value) for value in numbers):
                rows[number] = row = {ERROR: "the model returned a score that is not finite"}
            if ERROR in row:
                row[ERROR] = f"row {number}: {row[ERROR]}"
        failed = [row[ERROR] for row in rows if ERROR in row]
        if failed:
            logger.warning("%d of %d rows failed; the first: %s", len(failed), len(rows), failed[0])
        table = pd.DataFrame(index=index)
        for name in columns:
            values = [row.get(name) for row in rows]
            column = pd.Series(values, index=index, dtype=object)
            table[name] = column if any(value is None for value in values) else column.infer_objects()
        return table


def max_rows_from_environment() -> int:
    """Return the limit of rows per request: CLIPBERT_MAX_ROWS, or else 1000.

    Raises:
        ClipBertError: it is not an integer above 0.
    """
    text = os.environ.get(MAX_ROWS, str(DEFAULT_MAX_ROWS))
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) > 0):
        raise ClipBertError(f"{MAX_ROWS} is {text!r}: expected an integer above 0.")
    return int(text)


def _input_table(given: Any, served: Serving) -> pd.DataFrame:
    """Return the rows of a request; MLflow passes `inputs` and `instances` as one row with a whole column per cell.

    Raises:
        ClipBertError: the input is not a table, a column is missing, or columns have different lengths.
    """
    if not isinstance(given, pd.DataFrame):
        raise ClipBertError(f"the request is of type {type(given).__name__}: expected a table.")
    if missing := [name for name in served.inputs if name not in given]:
        raise ClipBertError(f"column {missing[0]} is missing: expected {', '.join(served.inputs)}.")
    columns = [*served.inputs, *(name for name in served.segment_columns if name in given)]
    if len(given) != 1 or not all(isinstance(given[name].iloc[0], np.ndarray | list) for name in columns):
        return given
    cells = {name: list(given[name].iloc[0]) for name in columns}
    lengths = {name: len(values) for name, values in cells.items()}
    if len(set(lengths.values())) > 1:
        raise ClipBertError(f"the columns have the lengths {lengths}: expected the same for all.")
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})


def _segment_of(row: Row, columns: Collection[str]) -> Segment | None:
    """Return the segment that a row asks about; None for the whole file.

    Raises:
        ValueError: a value is not a time in seconds, or the segment does not end after it starts.
    """
    return Segment.given(*(_given(row.get(name)) for name in columns)) if columns else None


def _given(value: Any) -> Any:
    """Return a cell of a table, None if it is missing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _media_key(media: Any) -> Any:
    """Return a key that rows about the same file share."""
    return media if isinstance(media, str) else ("not a path", repr(media))


def _checked_row(row: Row, columns: Mapping[str, str]) -> Row:
    """Return the input columns of a row, or {error: message} if one is invalid."""
    try:
        return {
            name: _options_of(row[name], name) if kind == "options" else _valid_text(row[name], name)
            for name, kind in columns.items()
        }
    except ClipBertError as error:
        return {ERROR: first_line(error)}


def _valid_text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ClipBertError(f"{name} is {quoted(value)}: expected a non-empty text.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ClipBertError(f"{name} is {quoted(value)}: it contains half of a surrogate pair, expected valid Unicode.")
    return value


def _options_of(given: Any, name: str) -> list[str]:
    """Return the texts of a cell that holds a list, or the JSON text of one.

    Raises:
        ClipBertError: there are none or too many, or one is not text.
    """
    value = given
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list | tuple | np.ndarray) or not 1 <= len(value) <= MAX_OPTIONS:
        raise ClipBertError(f"{name} is {quoted(given)}: expected a list of 1 to {MAX_OPTIONS} texts.")
    return [_valid_text(option, f"{name}[{place}]") for place, option in enumerate(value)]


mlflow.models.set_model(ServedClipBert())
