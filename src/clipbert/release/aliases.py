"""Aliases of a registered model: which version is the candidate, the champion and the previous champion."""

from typing import Any

from mlflow.exceptions import MlflowException

from clipbert.release.store import Store

CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS = "previous"

Position = dict[str, str | None]  # the versions that `champion` and `previous` name


def aliases(store: Store, name: str) -> dict[str, str]:
    """Return alias to version number; empty when the model was never registered."""
    try:
        found: dict[str, Any] = store.client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {alias: str(version) for alias, version in found.items()}


def position(store: Store, name: str) -> Position:
    """Return the versions that `champion` and `previous` name in the registry now."""
    found = aliases(store, name)
    return {alias: found.get(alias) for alias in (CHAMPION, PREVIOUS)}


def steps(before: Position, after: Position) -> list[tuple[str, str | None]]:
    """Return the single alias changes from `before` to `after`, in the order in which they are made.

    `previous` is set before `champion` moves and deleted after it, so that a version that was the champion is named by
    an alias at every moment.
    """
    wanted = [(PREVIOUS, after[PREVIOUS]), (CHAMPION, after[CHAMPION])]
    if after[PREVIOUS] is None:
        wanted.reverse()
    return [(alias, version) for alias, version in wanted if before[alias] != version]


def states(before: Position, after: Position) -> list[Position]:
    """Return the positions that a change passes: `before`, one for each of its `steps`, the last one is `after`."""
    found = [dict(before)]
    for alias, version in steps(before, after):
        found.append({**found[-1], alias: version})
    return found


def move(store: Store, name: str, before: Position, after: Position) -> None:
    """Move the aliases from `before` to `after`, one after the other."""
    for alias, version in steps(before, after):
        if version is None:
            store.client.delete_registered_model_alias(name, alias)
        else:
            store.client.set_registered_model_alias(name, alias, version)


def shown(place: Position) -> str:
    """Return a position in words: "champion 4, previous none"."""
    return ", ".join(f"{alias} {version or 'none'}" for alias, version in place.items())
