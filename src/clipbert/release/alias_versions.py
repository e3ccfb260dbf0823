"""The versions that aliases name, for a program that looks again and again."""

import os
from pathlib import Path
from typing import Any

from clipbert.release.embedded_versions import embedded_version


class AliasVersions:
    """Reader of aliases; MLflow is imported only where the store is not the project's own database.

    Args:
        root: the project's folder.
        release_name: release.name.
    """

    def __init__(self, root: Path, release_name: str) -> None:
        self._root, self._release_name = root, release_name
        self._store: Any = None

    def version(self, name: str, alias: str) -> str | None:
        """Return the version of a registered model that an alias names now; None if there is none.

        Raises:
            ClipBertError: the store cannot be used.
        """
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            found = embedded_version(self._root, name, alias)
            return None if found is None else str(found.version)
        from clipbert.release.aliases import aliases
        from clipbert.release.connection import open_store
        from clipbert.release.store import store_errors

        if self._store is None:
            self._store = open_store(self._root, self._release_name)
        with store_errors(self._store.uri, "cannot be read"):
            return aliases(self._store, name).get(alias)
