"""Versions in the embedded store, read from its database without importing MLflow, which takes seconds."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clipbert.release.relocate import DATABASE

VERSION_OF_ALIAS = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
FILES_OF_VERSION = (
    "SELECT m.artifact_location FROM model_version_tags t JOIN logged_models m ON m.model_id = t.value "
    "WHERE t.key = 'model_id' AND t.name = ? AND t.version = ?"
)


@dataclass(frozen=True)
class EmbeddedVersion:
    """A registered version whose files are on this disk.

    Attributes:
        folder: the model folder, which `clipbert.model.load` checks against its checksums.
    """

    name: str
    version: int
    folder: Path


def embedded_version(root: Path, name: str, wanted: str) -> EmbeddedVersion | None:
    """Return a version of a registered model of the project's own store; None if it has none or is of another kind.

    Args:
        root: the project's folder.
        name: of the registered model, as clipbert-retrieval.
        wanted: an alias or a number.
    """
    database = (root / DATABASE).absolute()
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            number = int(wanted) if wanted.isdecimal() else _first(connection, VERSION_OF_ALIAS, name, wanted)
            location = None if number is None else _first(connection, FILES_OF_VERSION, name, number)
    except sqlite3.Error:  # a database of another version of MLflow, or a damaged one: MLflow itself says so
        return None
    if number is None or location is None:
        return None
    place = Path(unquote(urlsplit(str(location)).path) if str(location).startswith("file:") else str(location))
    folders = sorted(path.parent for path in place.glob("artifacts/*/config.json"))
    return EmbeddedVersion(name, int(str(number)), folders[0]) if len(folders) == 1 else None


def _first(connection: sqlite3.Connection, query: str, *values: object) -> object:
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]
