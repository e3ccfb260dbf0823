"""Reading of `processor_config.json`: each error names the file, the field, its value and what was expected."""

import json
from pathlib import Path
from typing import Any

from clipbert.config.models import BaseModel, ValidationError
from clipbert.config.schema import FramesParams
from clipbert.config.tasks import CaptioningParams
from clipbert.errors import ModelFolderError

PROCESSOR_FILE = "processor_config.json"
SETTINGS = ("image_size", "clips", "frames_per_clip", "max_text_length")
FRAME_SETTINGS = ("fps", "size", "max_frames", "sampling")  # of section frames: those that decide which pixels are seen
GENERATION_SETTINGS = tuple(CaptioningParams().generation())
RESIZES = ("pad", "crop", "stretch")
POSITIVE = "an integer above 0"
REMEDY = "Save the processor again with save_pretrained, or train or convert the model again."


def read_processor_file(path: Path) -> tuple[dict[str, Any], int]:
    """Return the settings of a processor, and the text length of its dual encoder (0 if it has none).

    Raises:
        ModelFolderError: the file cannot be read, a field is missing, or a field has a wrong value.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path}: not a ClipBERT processor file ({error}). {REMEDY}") from error
    stored = _mapping(path, "the file", stored)
    if not any(name in stored for name in SETTINGS):
        raise ModelFolderError(
            f"{path}: not a ClipBERT processor file: expected {', '.join(SETTINGS)}, found "
            f"{', '.join(stored) or 'nothing'}. Choose the folder of a ClipBERT model. {REMEDY}"
        )
    settings: dict[str, Any] = {name: _positive(path, name, stored.get(name)) for name in SETTINGS}
    if "frames" in stored:
        frames = _mapping(path, "frames", stored["frames"])
        known = {name: frames.get(name) for name in FRAME_SETTINGS}
        settings["frames"] = _checked(path, "frames", FramesParams, known)
    if "generation" in stored:
        generation = _mapping(path, "generation", stored["generation"])
        for name in generation:
            if name not in GENERATION_SETTINGS:
                raise _wrong(path, f"generation.{name}", generation[name], f"only {', '.join(GENERATION_SETTINGS)}")
        _checked(path, "generation", CaptioningParams, generation)
        settings["generation"] = generation
    if "resize" in stored:
        if stored["resize"] not in RESIZES:
            raise _wrong(path, "resize", stored["resize"], f"one of {', '.join(RESIZES)}")
        settings["resize"] = stored["resize"]
    if "dual_encoder" not in stored:
        return settings, 0
    dual = _mapping(path, "dual_encoder", stored["dual_encoder"])
    return settings, _positive(path, "dual_encoder.max_text_length", dual.get("max_text_length"))


def is_positive_integer(value: object) -> bool:
    """Return whether a value is an integer above 0, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _positive(path: Path, field: str, value: Any) -> int:
    if not is_positive_integer(value):
        raise _wrong(path, field, value, POSITIVE)
    return int(value)


def _mapping(path: Path, field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, field, value, "an object with named values")
    return value


def _checked(path: Path, section: str, kind: type[BaseModel], values: dict[str, Any]) -> Any:
    """Return the values of a section as the parameters of the same names."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        from clipbert.config.fields import allowed_in_words  # needs pydantic, as such an error does

        name = str(error.errors()[0]["loc"][0])
        expected = allowed_in_words(kind.model_fields[name])
        raise _wrong(path, f"{section}.{name}", values.get(name), expected) from error


def _wrong(path: Path, field: str, value: Any, expected: str) -> ModelFolderError:
    what = "is missing" if value is None else f"is {value!r}"
    return ModelFolderError(f"{path}: {field} {what}: expected {expected}. {REMEDY}")
