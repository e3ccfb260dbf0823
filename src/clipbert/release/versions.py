"""Versions of registered models with their metrics, as the registry has them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipbert.release.aliases import CHAMPION, aliases
from clipbert.release.connection import open_store
from clipbert.release.store import DEFAULT_NAME, EMBEDDED, embedded_uri, store_errors, tracking_uri

METRIC = "metric."  # prefix of the tags with a version's test metrics


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a task's model.

    Attributes:
        created: in UTC, ISO 8601, to the minute.
        metrics: of the test split, by the names of artifacts/metrics/TASK.json.
    """

    name: str
    version: str
    run_id: str
    created: str
    aliases: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def is_champion(self) -> bool:
        """Whether the version is in use."""
        return CHAMPION in self.aliases


def registered_versions(
    root: Path, tasks: list[str], release_name: str = DEFAULT_NAME
) -> dict[str, list[RegisteredVersion]] | None:
    """Return the versions of each task's model, the oldest first; None if the project has no store yet.

    Args:
        root: the project's folder.
        release_name: release.name.

    Raises:
        ClipBertError: the store cannot be used.
    """
    if tracking_uri(root) == embedded_uri(root) and not (root / EMBEDDED).is_file():
        return None
    store = open_store(root, release_name)
    found = {}
    with store_errors(store.uri, "cannot be read"):
        for task in tasks:
            name = store.model_name(task)
            known = aliases(store, name)
            versions = store.client.search_model_versions(f"name = '{name}'")
            found[task] = [_version(version, known) for version in sorted(versions, key=lambda one: int(one.version))]
    return found


def _version(version: Any, known: dict[str, str]) -> RegisteredVersion:
    number = str(version.version)
    created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    metrics = {key.removeprefix(METRIC): float(value) for key, value in version.tags.items() if key.startswith(METRIC)}
    return RegisteredVersion(
        name=version.name,
        version=number,
        run_id=str(version.run_id),
        created=created.isoformat(timespec="minutes"),
        aliases=tuple(sorted(alias for alias, value in known.items() if value == number)),
        metrics=metrics,
    )
