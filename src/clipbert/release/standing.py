"""What the registry knows about a model: its version, and the champion with the scores of its evaluation."""

from dataclasses import dataclass
from pathlib import Path

from clipbert.errors import ClipBertError
from clipbert.evaluation.conditions import from_tags
from clipbert.evaluation.report.champion import Champion
from clipbert.release.aliases import CHAMPION, aliases
from clipbert.release.connection import open_store
from clipbert.release.gate import stored_predictions
from clipbert.release.registry import find_version, model_digest
from clipbert.release.store import DEFAULT_NAME, EMBEDDED, embedded_uri, store_errors, tracking_uri


@dataclass(frozen=True)
class Standing:
    """The registered name and version of a model, and the champion of its task, where there are any."""

    version: tuple[str, str] | None = None
    champion: Champion | None = None


def standing(root: Path, task: str, model_dir: Path, release_name: str = DEFAULT_NAME) -> Standing:
    """Look up a model folder and the champion, without creating an embedded store.

    A store that cannot be used gives an empty result: the evaluation itself reports it.

    Args:
        root: the project's folder.
        release_name: release.name.
    """
    if tracking_uri(root) == embedded_uri(root) and not (root / EMBEDDED).is_file():
        return Standing()
    try:
        store = open_store(root, release_name)
        name = store.model_name(task)
        with store_errors(store.uri, "cannot be read"):
            digest = model_digest(model_dir)
            own, known = find_version(store, name, digest), aliases(store, name)
            version = None if own is None else (name, str(own.version))
            if CHAMPION not in known:
                return Standing(version)
            champion = store.client.get_model_version(name, known[CHAMPION])
            if champion.tags.get("digest") == digest:
                return Standing(version, Champion(str(champion.version), is_this_model=True))
            items = stored_predictions(store, task, champion)
            scores = None if isinstance(items, str) else items["score"]
            return Standing(version, Champion(str(champion.version), False, scores, from_tags(task, champion.tags)))
    except ClipBertError:
        return Standing()
