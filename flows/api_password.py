"""API password of a project: created once, readable only by its owner, never in git."""

import contextlib
import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

FILE = Path(".clipbert", "api_password")
_SHORTEST = 32


class ApiPasswordError(Exception):
    """The password file cannot be used; the message names the file and says what to do."""


def api_password(root: Path) -> str:
    """Return the API password of the project at `root`; create one if there is none.

    The folder `.clipbert` has a .gitignore that excludes all of its files, so the password is not committed.

    Raises:
        ApiPasswordError: the file can be read by others, belongs to somebody else, is too short, or cannot be written.
    """
    file = root / FILE
    try:
        if not file.exists():
            _create(file)
        return _read(file)
    except OSError as error:
        raise ApiPasswordError(
            f"{file}: the API password cannot be read or written ({error.strerror or error}). Fix its permissions."
        ) from error


def _create(file: Path) -> None:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    (file.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    handle, name = tempfile.mkstemp(dir=file.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(f"{secrets.token_urlsafe(32)}\n")
            new.flush()
            os.fsync(new.fileno())
        # If two processes create a password at the same time, both use the first one.
        with contextlib.suppress(FileExistsError):
            os.link(name, file)
    finally:
        os.unlink(name)


def _read(file: Path) -> str:
    with file.open(encoding="utf-8") as opened:
        status = os.fstat(opened.fileno())
        text = opened.read().strip()
    if status.st_uid != os.getuid():
        raise ApiPasswordError(f"{file}: belongs to another user. Remove it; the next `make ui` creates a new one.")
    if mode := stat.S_IMODE(status.st_mode) & 0o077:
        raise ApiPasswordError(
            f"{file}: mode {stat.S_IMODE(status.st_mode):04o} lets others read the API password (bits {mode:03o}). "
            "Expected 0600. Remove the file; the next `make ui` creates a new password."
        )
    if not re.fullmatch(rf"[!-9;-~]{{{_SHORTEST},}}", text):
        raise ApiPasswordError(
            f"{file}: expected one line of at least {_SHORTEST} ASCII characters without spaces and colons. "
            "Remove the file; the next `make ui` creates a new password."
        )
    return text
