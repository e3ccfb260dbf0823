"""Readers for files of the authors' code and of detectron2 that never execute code from them."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipbert.errors import ClipBertError, first_line
from clipbert.model.configuration import BERT_FIELDS

NESTED = ("model_state_dict", "model", "state_dict", "blobs")
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that old files of torch.save begin with
FIELDS = {
    "max_grid_row_position_embeddings": "max_grid_rows",
    "max_grid_col_position_embeddings": "max_grid_cols",
    **{name: name for name in BERT_FIELDS},
}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a file, also from inside a training state; `module.` prefixes are removed.

    Raises:
        ClipBertError: the file is missing, broken, or holds anything but tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(LEGACY_TORCH))
    except OSError as error:
        raise ClipBertError(f"{path}: cannot be read ({first_line(error)}). Name a checkpoint file.") from error
    # A file of torch.save is a zip archive or begins with a certain pickled number; detectron2's .pkl is a bare pickle.
    content = _unpickle(path) if head[:1] == b"\x80" and head != LEGACY_TORCH else _torch_load(path)
    while isinstance(content, dict) and (inner := next((key for key in NESTED if key in content), None)):
        content = content[inner]
    if not isinstance(content, dict) or not content:
        raise ClipBertError(
            f"{path}: holds a {type(content).__name__}: expected a state dict, names and their weights."
        )
    weights = {
        name: value
        for name, value in content.items()
        if isinstance(value, Tensor) and not str(name).endswith("_momentum")  # Caffe2's optimizer
    }
    if strange := [name for name, value in content.items() if not isinstance(value, Tensor) and name != "__author__"]:
        raise ClipBertError(
            f"{path}: {strange[0]} is a {type(content[strange[0]]).__name__}: expected weights only, or a training "
            f"state with them under one of {', '.join(NESTED)}."
        )
    return {str(name).removeprefix("module."): value for name, value in weights.items()}


def read_model_config(path: Path) -> dict[str, Any]:
    """Read the authors' model configuration (base_model.json) as fields of `ClipBertConfig`.

    Raises:
        ClipBertError: not JSON, or a size is missing.
    """
    content = _json(path)
    if not isinstance(content, dict) or (
        missing := [name for name in FIELDS if name not in content and name != "pad_token_id"]
    ):
        lacking = f"{', '.join(missing)} missing" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ClipBertError(f"{path}: {lacking}: expected the authors' model configuration, base_model.json.")
    return {ours: content[theirs] for theirs, ours in FIELDS.items() if theirs in content}


def read_answers(path: Path) -> list[str]:
    """Read an answer vocabulary in the order of the classifier: a list, {answer: index} or {index: answer}.

    Raises:
        ClipBertError: not JSON, or not a vocabulary.
    """
    content = _json(path)
    if isinstance(content, list) and all(isinstance(answer, str) for answer in content):
        return content
    if isinstance(content, dict) and content:
        pairs = [(value, key) if isinstance(value, int) else (key, value) for key, value in content.items()]
        try:
            ordered = sorted((int(index), str(answer)) for index, answer in pairs)
        except (TypeError, ValueError):
            ordered = []
        if [index for index, _ in ordered] == list(range(len(content))):
            return [answer for _, answer in ordered]
    raise ClipBertError(
        f"{path}: not an answer vocabulary: expected a JSON list of answers, or an object of answers and their indices "
        "from 0 without a gap."
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClipBertError(f"{path}: cannot be read as JSON ({first_line(error)}).") from error


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise anything
        raise ClipBertError(
            f"{path}: cannot be read as weights ({first_line(error)}). It must be a file of torch.save that holds "
            "tensors and plain values only; code inside a checkpoint is never run."
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickler for NumPy arrays and plain values only."""

    ALLOWED = {  # noqa: RUF012
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numpy._core.numeric", "_frombuffer"): np._core.numeric._frombuffer,  # type: ignore[attr-defined]
        ("numpy.core.numeric", "_frombuffer"): np._core.numeric._frombuffer,  # type: ignore[attr-defined]
        ("_codecs", "encode"): lambda text, encoding: _latin(text, encoding),
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None


def _latin(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("_codecs.encode is allowed for the bytes of arrays only")
    return text.encode("latin1")


def _unpickle(path: Path) -> Any:
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        return _tensors(content)
    except Exception as error:  # a broken pickle can raise anything
        raise ClipBertError(
            f"{path}: cannot be read as weights ({first_line(error)}). Expected a pickle of NumPy arrays, as "
            "detectron2's R-50.pkl is; code inside a checkpoint is never run."
        ) from error


def _tensors(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _tensors(value) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        return torch.from_numpy(np.array(content))
    return content
