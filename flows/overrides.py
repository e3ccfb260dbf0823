"""Changed parameters of one run: checked, written to params.yaml, and taken back after the run or after a kill."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from clipbert.config.help import complete_file
from clipbert.config.load import load_params
from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_write
from flows.parameters import ParameterError

PARAMS = "params.yaml"
KEPT = Path("artifacts", "retrain", "params.yaml")  # params.yaml before the run
Value = str | int | float | bool | list[str] | None

# Names and relative paths; parameters that name other machines or folders cannot be changed from the Prefect UI.
_TEXT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .%/-]*")
_FIXED = ("inbox.", "release.", "frames.media_url", "frames.cache_url", "frames.executor")


def check_overrides(project: Path, overrides: Mapping[str, Value]) -> Params:
    """Return the parameters with changes.

    Args:
        overrides: values by dotted path, such as {"train.lr": 0.001}.

    Raises:
        ParameterError: a name or a value is not allowed; the message names it and the expected values.
    """
    for name, value in overrides.items():
        if name.startswith(_FIXED):
            raise ParameterError(f"overrides: {name}: cannot be changed for one run. Change it in {PARAMS}.")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (not _TEXT.fullmatch(text) or ".." in text.split("/")):
                raise ParameterError(
                    f"overrides: {name} = {text!r}: expected letters, digits and _ . % / -, and no path outside the "
                    "project."
                )
    try:
        # JSON is YAML, so a value keeps its type
        changes = [f"{name}={json.dumps(value)}" for name, value in overrides.items()]
        return load_params(project / PARAMS, changes, source="overrides:")
    except ClipBertError as error:
        raise ParameterError(str(error)) from error


def apply_overrides(project: Path, overrides: Mapping[str, Value]) -> None:
    """Write changed parameters to params.yaml, and keep the file as it was for `restore_params`."""
    changed = check_overrides(project, overrides)
    file = project / PARAMS
    before = file.read_text(encoding="utf-8")
    with atomic_write(project / KEPT, "w") as kept:
        kept.write(before)
    comments = [line for line in before.splitlines(keepends=True) if line.startswith("#")]
    with atomic_write(file, "w") as out:
        out.write("".join(comments) + complete_file(changed))


def restore_params(project: Path) -> bool:
    """Write params.yaml as it was before `apply_overrides`; return whether it was changed."""
    kept = project / KEPT
    if not kept.is_file():
        return False
    before = kept.read_text(encoding="utf-8")
    with atomic_write(project / PARAMS, "w") as out:
        out.write(before)
    kept.unlink()
    return True
