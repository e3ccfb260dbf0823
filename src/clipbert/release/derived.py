"""State derived from the ledger: decisions, the block on rolled-back models, version tags, decision file and page.

The tags `promotion.*` of a version, `artifacts/promotions/TASK.json` and `TASK.html` are copies of the ledger.
`publish_decisions` rewrites those that are missing or different.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError, first_line
from clipbert.files.atomic import write_json
from clipbert.project import Project
from clipbert.release.decisions import Decision
from clipbert.release.ledger import Entry
from clipbert.release.store import Store
from clipbert.release.verdict import check_tags
from clipbert.release.verdict_page import write_verdict_page

PREFIX = "promotion."
ROLLED_BACK = f"{PREFIX}rolled_back"


def decision_path(root: Path, task: str) -> Path:
    """Return the path of the file with the last decision of a task."""
    return root / "artifacts" / "promotions" / f"{task}.json"


def effective_decisions(entries: Iterable[Entry], store: str | None = None, name: str | None = None) -> list[Decision]:
    """Return the decisions that took effect, in that order.

    Args:
        entries: rows of the ledger about one task.
        store: the registry; None: any.
        name: the registered model; None: any.
    """
    found: list[Decision] = []
    intents: dict[str, Entry] = {}
    for entry in entries:
        if entry.kind == "intent":
            intents[entry.id] = entry
            continue
        source = {"decided": entry, "completed": intents.get(entry.id)}.get(entry.kind)
        if source is None or store not in (None, entry.store) or name not in (None, source.facts["name"]):
            continue
        found.append(Decision(**source.facts["decision"]))
    return found


def rollback_block(entries: Iterable[Entry], digest: str, tags: dict[str, str]) -> str | None:
    """Return the rollback that blocks a model from promotion as "TIME by USER@HOST"; None if it is not blocked.

    The block applies to the digest of the model's files, whatever the version number, until the model is promoted again
    with `--reconsider`. The tag of the version counts too: another project folder that shares the registry may have
    rolled it back.
    """
    changes = [
        decision
        for decision in _attempted(entries)
        if decision.digest == digest and decision.decision in ("promoted", "rolled_back")
    ]
    last = changes[-1] if changes else None
    if last is not None and last.decision == "rolled_back":
        return f"{last.at} by {last.by}"
    tagged = tags.get(ROLLED_BACK)
    if tagged is None and last is None and tags.get(f"{PREFIX}decision") == "rolled_back":
        tagged = f"{tags.get(f'{PREFIX}at')} by {tags.get(f'{PREFIX}by')}"  # written before there was a ledger
    return tagged if tagged is not None and (last is None or tagged.split(" ")[0] > last.at) else None


def publish_decisions(store: Store, entries: list[Entry], identity: str, name: str, task: str) -> None:
    """Bring the version tags, the decision file and the verdict page up to date with the ledger.

    Args:
        entries: rows of the ledger about the task.
        identity: the registry's name in the ledger.
        name: the registered model.

    Raises:
        ClipBertError: the file cannot be written.
    """
    made = effective_decisions(entries, identity, name)
    if not made:
        return
    for version in _versions(store, name):
        about = [
            decision
            for decision in made
            if decision.version == str(version.version) and decision.digest == version.tags.get("digest", "")
        ]
        if about:
            _publish_tags(store, version, about, rollback_block(entries, about[-1].digest, version.tags))
    # The file has the last decision of the task even if release.name has changed since.
    decisions = effective_decisions(entries, identity)
    path, wanted = decision_path(store.root, task), asdict(decisions[-1])
    judged = next((decision for decision in reversed(decisions) if decision.verdict is not None), None)
    try:
        if _read(path) != wanted:
            write_json(path, wanted)
        if judged is not None:
            write_verdict_page(judged, decisions[-1], Project(store.root).verdict(task))
    except ClipBertError as error:
        reason = first_line(error.__cause__ or error)
        raise ClipBertError(
            f"{path} could not be written: {reason}. It is a copy from the ledger: correct the cause, then "
            f"`clipbert history {task}` writes it."
        ) from error


def _attempted(entries: Iterable[Entry]) -> list[Decision]:
    """Return the decisions, and the rollbacks that were abandoned because something else moved the aliases."""
    listed = list(entries)
    abandoned = {entry.id for entry in listed if entry.kind == "abandoned"}
    rollbacks = {
        entry.id: Decision(**entry.facts["decision"])
        for entry in listed
        if entry.kind == "intent" and entry.id in abandoned and entry.facts["decision"]["decision"] == "rolled_back"
    }
    made = {decision.id: decision for decision in effective_decisions(listed)}
    ordered = [entry.id for entry in listed if entry.kind != "intent"]
    known = made | rollbacks
    return [known[id] for id in ordered if id in known]


def _publish_tags(store: Store, version: Any, about: list[Decision], blocked: str | None) -> None:
    last = about[-1]
    tags = {key: value for key, value in version.tags.items() if key.startswith(PREFIX)}
    known = {decision.id for decision in about}
    if tags.get(f"{PREFIX}id", last.id) not in known and tags.get(f"{PREFIX}at", "") > last.at:
        return  # a later decision of another project folder that shares the registry
    facts: dict[str, Any] = {name: getattr(last, name) for name in ("decision", "reason", "at", "by", "id")}
    facts |= {name: value for name in ("approved_by", "note", "metric") if (value := getattr(last, name))}
    compared = next((decision for decision in reversed(about) if decision.numbers()), None)
    if compared is not None:
        facts |= {"against": compared.against, **compared.numbers()}
    judged = next((decision for decision in reversed(about) if decision.verdict is not None), None)
    if judged is not None and judged.verdict is not None:
        facts |= check_tags(judged.verdict)
    wanted = {f"{PREFIX}{key}": str(value) for key, value in facts.items()}
    if blocked is not None:
        wanted[ROLLED_BACK] = blocked
    for key, value in wanted.items():
        if tags.get(key) != value:
            store.client.set_model_version_tag(version.name, version.version, key, value)
    for key in tags.keys() - wanted.keys():
        store.client.delete_model_version_tag(version.name, version.version, key)


def _versions(store: Store, name: str) -> list[Any]:
    found, token = [], None
    while True:
        page = store.client.search_model_versions(f"name = '{name}'", page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError):
        return None
