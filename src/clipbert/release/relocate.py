"""Correction of the embedded store's paths after a project was moved: MLflow stores absolute paths of its files."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipbert.errors import ClipBertError
from clipbert.files.atomic import fsync_directory, write_errors

DATABASE = Path("mlflow", "mlflow.db")
FILES = Path("mlflow", "artifacts")
BACKUP = Path("mlflow", "mlflow.db.before-relocate")
LOCK_TIMEOUT_S = 20.0
# All columns of MLflow's database that contain paths of files.
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@dataclass(frozen=True)
class Relocation:
    """Result of `relocate`."""

    old: tuple[Path, ...]  # the project folders that the store recorded
    changed: int  # number of paths

    @property
    def text(self) -> str:
        """The message for the user."""
        if not self.old:
            return "The paths in the MLflow store already name this folder; nothing was changed."
        places = ", ".join(map(str, self.old))
        return f"{self.changed} paths in {DATABASE} changed from {places} to this folder. Backup: {BACKUP}."


def misplaced_paths(root: Path) -> str | None:
    """Return the message about an embedded store with paths of another folder; None if its paths are correct.

    Returns None for a store that is missing or cannot be read: the code that opens it reports that.
    """
    root = root.resolve()
    if not (root / DATABASE).is_file():
        return None
    try:
        with _connect(f"file:{root / DATABASE}?mode=ro") as database:
            old = _old_roots(database, root)
    except sqlite3.Error:
        return None
    if not old:
        return None
    return (
        f"MLflow store {DATABASE}: its files are recorded under {', '.join(str(place / FILES) for place in old)}, but "
        f"this project is at {root}. It was moved, renamed or copied, and MLflow keeps absolute paths: run "
        "`clipbert track relocate` to correct them."
    )


def relocate(root: Path) -> Relocation:
    """Correct the paths in the embedded store of the project at `root` in one transaction, after a backup.

    A second call changes nothing; a killed call leaves the old paths.

    Raises:
        ClipBertError: there is no embedded store, its files are not in this folder, or the database is locked.
    """
    root = root.resolve()
    path = root / DATABASE
    if not path.is_file():
        raise ClipBertError(
            f"{path}: not found: this project has no embedded MLflow store, so there are no paths to correct."
        )
    try:
        with _connect(f"file:{path}?mode=rw") as database:
            database.execute("BEGIN IMMEDIATE")
            old = _old_roots(database, root)
            if not old:
                return Relocation((), 0)
            if not (root / FILES).is_dir():
                raise ClipBertError(
                    f"{root / FILES}: not found: move the store's files here from {old[0] / FILES}, then rerun "
                    "`clipbert track relocate`."
                )
            _back_up(path, root / BACKUP)
            changed = sum(_replace(database, table, column, old, root) for table, column in COLUMNS)
            database.execute("COMMIT")
    except sqlite3.Error as error:
        raise ClipBertError(
            f"{path}: cannot be changed ({error}); nothing was changed. Stop the programs that use it (`make ui`, a "
            "training), then rerun `clipbert track relocate`."
        ) from error
    return Relocation(tuple(old), changed)


@contextlib.contextmanager
def _connect(uri: str) -> Iterator[sqlite3.Connection]:
    """Open a connection without implicit transactions; uncommitted changes are rolled back."""
    # A path may contain characters that are special in a URI.
    scheme, _, rest = uri.partition(":")
    place, _, mode = rest.rpartition("?")
    quoted = place.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    database = sqlite3.connect(f"{scheme}:{quoted}?{mode}", uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)
    try:
        yield database
    finally:
        database.close()


def _old_roots(database: sqlite3.Connection, root: Path) -> list[Path]:
    """Return the project folders other than `root` that contain files of the store's experiments."""
    suffix = f"/{FILES.as_posix()}"
    found = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    places = {
        Path(_without_scheme(place).removesuffix(suffix))
        for (place,) in found
        if place and _without_scheme(place).endswith(suffix)
    }
    return sorted(place for place in places if place.is_absolute() and place != root)


def _without_scheme(location: str) -> str:
    return location.removeprefix("file://") if location.startswith("file:///") else location


def _replace(database: sqlite3.Connection, table: str, column: str, old: list[Path], root: Path) -> int:
    columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    if column not in columns:  # another version of MLflow
        return 0
    changed = 0
    new = str(root / FILES)
    for place in old:
        before = str(place / FILES)
        for scheme in ("", "file://"):
            prefix = f"{scheme}{before}"
            changed += database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (f"{scheme}{new}", len(prefix) + 1, prefix, len(prefix) + 1, f"{prefix}/"),
            ).rowcount
    return changed


def _back_up(path: Path, backup: Path) -> None:
    """Copy the database atomically while the caller holds its lock."""
    temporary = backup.with_name(f"{backup.name}.{os.getpid()}.tmp")
    with write_errors(backup):
        try:
            with _connect(f"file:{path}?mode=ro") as source, contextlib.closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, backup)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_directory(backup.parent)
