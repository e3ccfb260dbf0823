"""JSON files that detect damage: an object with the SHA-256 of its other values in `content_sha256`."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_json

DIGEST = "content_sha256"


def write_signed_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object with its digest atomically."""
    write_json(path, {**values, DIGEST: _digest(values)})


def read_signed_json(path: Path, remedy: str, expected: str = "a JSON object") -> dict[str, Any]:
    """Read an object and check its digest; files without a digest, written by older versions, are not checked.

    Args:
        remedy: what the user can do; the end of the message.
        expected: what the file should contain.

    Raises:
        ClipBertError: the file is missing, is not JSON, or does not match its digest.
    """
    try:
        # the error names the position of the damage, never the content
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ClipBertError(
            f"{path}: expected {expected}; it cannot be read ({type(error).__name__}: {error}). {remedy}"
        ) from error
    if not isinstance(found, dict):
        raise ClipBertError(f"{path}: expected {expected}, found {type(found).__name__}. {remedy}")
    stored = found.pop(DIGEST, None)
    damaged_name = stored is None and any(len(key) == len(DIGEST) and _close(key) for key in found)
    if damaged_name or (stored is not None and stored != _digest(found)):
        raise ClipBertError(f"{path}: damaged or edited: its values do not match its {DIGEST}. {remedy}")
    return found


def _close(key: str) -> bool:
    """Return whether a key is `DIGEST` with one changed character: a bit flip there must not disable the check."""
    return sum(a != b for a, b in zip(key, DIGEST, strict=True)) == 1


def _digest(values: Mapping[str, Any]) -> str:
    # through JSON once, so that tuples and numeric keys become what a reader gets
    plain = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
