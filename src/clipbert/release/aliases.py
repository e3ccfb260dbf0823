"""Aliases of a registered model: the versions that are the candidate, the champion and the previous champion."""

from typing import Any

from mlflow.exceptions import MlflowException

from clipbert.release.store import Store, is_absent

CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS = "previous"

AliasState = dict[str, str | None]  # the versions that `champion` and `previous` name


def aliases(store: Store, name: str) -> dict[str, str]:
    """Return the version number of each alias; empty when the model was never registered."""
    try:
        found: dict[str, Any] = store.client.get_registered_model(name).aliases
    except MlflowException as error:
        if is_absent(error):
            return {}
        raise
    return {alias: str(version) for alias, version in found.items()}


def alias_state(store: Store, name: str) -> AliasState:
    """Return the versions that `champion` and `previous` name in the registry now."""
    found = aliases(store, name)
    return {alias: found.get(alias) for alias in (CHAMPION, PREVIOUS)}


def alias_changes(before: AliasState, after: AliasState) -> list[tuple[str, str | None]]:
    """Return the single alias changes from `before` to `after`, in the order in which they are made.

    `previous` is set before `champion` moves and deleted after it, so a version that was the champion has an alias at
    every moment.
    """
    wanted = [(PREVIOUS, after[PREVIOUS]), (CHAMPION, after[CHAMPION])]
    if after[PREVIOUS] is None:
        wanted.reverse()
    return [(alias, version) for alias, version in wanted if before[alias] != version]


def intermediate_states(before: AliasState, after: AliasState) -> list[AliasState]:
    """Return the states from `before` to `after`, both included: one after each of the `alias_changes`."""
    found = [dict(before)]
    for alias, version in alias_changes(before, after):
        found.append({**found[-1], alias: version})
    return found


def move_aliases(store: Store, name: str, before: AliasState, after: AliasState) -> None:
    """Move the aliases from `before` to `after`, one after the other."""
    for alias, version in alias_changes(before, after):
        if version is None:
            store.client.delete_registered_model_alias(name, alias)
        else:
            store.client.set_registered_model_alias(name, alias, version)


def format_aliases(state: AliasState) -> str:
    """Return a state as messages show it: "champion 4, previous none"."""
    return ", ".join(f"{alias} {version or 'none'}" for alias, version in state.items())
