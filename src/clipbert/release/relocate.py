"""The embedded store in a project that was moved, renamed or copied: MLflow keeps absolute paths of its files."""

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
LOCK_PATIENCE_S = 20.0
# Every column of MLflow's database in which paths of files stand.
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@dataclass(frozen=True)
class Relocation:
    """What `relocate` did."""

    old: tuple[Path, ...]  # where the files were recorded
    changed: int  # paths

    @property
    def text(self) -> str:
        """A sentence for the user."""
        if not self.old:
            return "The paths in the MLflow store are those of this folder; nothing was changed."
        places = ", ".join(map(str, self.old))
        return f"{self.changed} paths in {DATABASE} changed from {places} to this folder. Copy of before: {BACKUP}."


def misplaced_paths(root: Path) -> str | None:
    """What is wrong with the paths in the embedded store of the project at `root`, and the remedy; None if nothing is.

    A store that is missing or cannot be read has no answer; the code that opens it reports what is wrong.
    """
    root = root.resolve()
    if not (root / DATABASE).is_file():
        return None
    try:
        with _database(f"file:{root / DATABASE}?mode=ro") as database:
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
    """Correct the paths in the embedded store of the project at `root`, all in one transaction.

    The database as it was is kept beside it. Doing it again changes nothing; a kill in between leaves the old paths.

    Raises:
        ClipBertError: there is no embedded store, its files are not in this folder, or the database is in use.
    """
    root = root.resolve()
    path = root / DATABASE
    if not path.is_file():
        raise ClipBertError(
            f"{path}: not found: this project has no embedded MLflow store, so there is no path to correct."
        )
    try:
        with _database(f"file:{path}?mode=rw") as database:
            database.execute("BEGIN IMMEDIATE")
            old = _old_roots(database, root)
            if not old:
                return Relocation((), 0)
            if not (root / FILES).is_dir():
                raise ClipBertError(
                    f"{root / FILES}: not found: move the store's files here from {old[0] / FILES}, then run "
                    "`clipbert track relocate` again."
                )
            _back_up(path, root / BACKUP)
            changed = sum(_replace(database, table, column, old, root) for table, column in COLUMNS)
            database.execute("COMMIT")
    except sqlite3.Error as error:
        raise ClipBertError(
            f"{path}: cannot be changed ({error}). End what uses it (`make ui`, a training), then run "
            "`clipbert track relocate` again; nothing was changed."
        ) from error
    return Relocation(tuple(old), changed)


@contextlib.contextmanager
def _database(uri: str) -> Iterator[sqlite3.Connection]:
    """A connection without implicit transactions; what is not committed is rolled back."""
    # A path may hold characters that mean something in a URI.
    scheme, _, rest = uri.partition(":")
    place, _, mode = rest.rpartition("?")
    quoted = place.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    database = sqlite3.connect(f"{scheme}:{quoted}?{mode}", uri=True, timeout=LOCK_PATIENCE_S, isolation_level=None)
    try:
        yield database
    finally:
        database.close()


def _old_roots(database: sqlite3.Connection, root: Path) -> list[Path]:
    """The project folders other than `root` under which the experiments of an embedded store have their files."""
    suffix = f"/{FILES.as_posix()}"
    found = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    places = {
        Path(_plain(place).removesuffix(suffix)) for (place,) in found if place and _plain(place).endswith(suffix)
    }
    return sorted(place for place in places if place.is_absolute() and place != root)


def _plain(location: str) -> str:
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
    """Copy the database, whole or not at all; the writer holds its lock meanwhile."""
    temporary = backup.with_name(f"{backup.name}.{os.getpid()}.tmp")
    with write_errors(backup):
        try:
            with _database(f"file:{path}?mode=ro") as source, contextlib.closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, backup)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_directory(backup.parent)
