"""Facts about the lineage of a registered version that a promotion may require."""

from dataclasses import dataclass
from typing import Any

from clipbert.release.lineage_record import StoredLineage, experiment_of, has_lock, read_lineage
from clipbert.release.lock_file import LOCK
from clipbert.release.provenance import NONE
from clipbert.release.revisions import SHORT
from clipbert.release.source_tree import GitError, committed_tree, run_git
from clipbert.release.store import Store, store_errors

MOST_COMMITS = 200  # with a changed dvc.lock, newest first
FACTS = {
    "source_saved": "trained from a commit without changes, or its changes were committed or saved as an experiment",
    "lock_committed": "a commit or an experiment has the dvc.lock that describes the version",
    "data_validated": "the data passed the validation",
    "no_leakage": "the splits share no media, file or more near-duplicates than allowed",
}


@dataclass(frozen=True)
class LineageFact:
    """Whether one of `FACTS` holds for a version, and why."""

    name: str
    holds: bool
    reason: str


def lineage_facts(store: Store, version: Any) -> dict[str, LineageFact]:
    """Return each of `FACTS` for a version, by name; none holds for a version without a stored lineage.

    Args:
        version: MLflow's model version.

    Raises:
        ClipBertError: the store cannot be used, or a stored file is missing or damaged.
    """
    with store_errors(store.uri, "cannot be read"):
        stored = read_lineage(store, version)
        if stored is None:
            reason = "an older version of clipbert registered this version without its lineage; register it again"
            return {name: LineageFact(name, False, reason) for name in FACTS}
        commits = commits_with_lock(store, stored)
        experiment = experiment_of(store, stored.lineage)
    found = [
        _source_saved(store, stored, commits, experiment),
        _lock_committed(stored, commits),
        _data_validated(stored),
        _no_leakage(stored),
    ]
    return {fact.name: fact for fact in found}


def commits_with_lock(store: Store, stored: StoredLineage) -> list[str]:
    """Return the commits of branches, tags and experiments that have the version's dvc.lock, newest first."""
    if stored.lineage.lock == NONE:
        return []
    try:
        listed = run_git(
            store.root, "log", "--all", f"-n{MOST_COMMITS}", "--format=%H", "--diff-filter=AM", "--", LOCK
        ).decode()
    except GitError:
        return []
    found = []
    for commit in listed.split():
        try:
            text = run_git(store.root, "show", f"{commit}:./{LOCK}").decode(errors="replace")
        except GitError:
            continue
        if has_lock(text, stored.lineage):
            found.append(commit)
    return found


def _source_saved(store: Store, stored: StoredLineage, commits: list[str], experiment: str | None) -> LineageFact:
    name, source = "source_saved", stored.source
    if source.commit == NONE:
        return LineageFact(name, False, "trained without a git commit")
    if not source.is_dirty:
        return LineageFact(name, True, f"trained from the commit {source.commit[:SHORT]} without changes")
    words = f"trained with changes on the commit {source.commit[:SHORT]}"
    if not source.omitted:
        for commit in dict.fromkeys([*commits, "HEAD"]):
            if committed_tree(store.root, commit) == source.tree:
                where = f"the DVC experiment {experiment}" if experiment else f"the commit {commit[:SHORT]}"
                return LineageFact(name, True, f"{words}, saved as {where}")
    return LineageFact(name, False, f"{words}, which no commit and no experiment has")


def _lock_committed(stored: StoredLineage, commits: list[str]) -> LineageFact:
    name = "lock_committed"
    if stored.lineage.lock_problem is not None:
        return LineageFact(name, False, stored.lineage.lock_problem)
    if commits:
        return LineageFact(name, True, f"{LOCK} is in the commit {commits[0][:SHORT]}")
    return LineageFact(name, False, f"no commit and no experiment has its {LOCK}; commit it: `git commit {LOCK}`")


def _data_validated(stored: StoredLineage) -> LineageFact:
    name, validation = "data_validated", stored.lineage.validation
    if validation is None:
        return LineageFact(name, False, "the validation of its data is not recorded")
    if not validation["success"]:
        return LineageFact(name, False, f"failed checks: {', '.join(validation['failed'])}")
    warned = f", warnings: {', '.join(validation['warned'])}" if validation["warned"] else ""
    return LineageFact(name, True, f"all checks passed{warned}")


def _no_leakage(stored: StoredLineage) -> LineageFact:
    name, validation = "no_leakage", stored.lineage.validation
    if validation is None:
        return LineageFact(name, False, "the validation of its data is not recorded")
    splits, near = validation["splits"], validation["near_duplicates"]
    found = ""
    if near:
        found = f"{near.get('media', 0)} of {near.get('of', 0)} val and test media resemble another split's"
    if broken := [check for check, good in splits.items() if not good]:
        return LineageFact(name, False, f"failed checks: {', '.join(broken)}{'; ' + found if found else ''}")
    if not splits:
        return LineageFact(name, False, "the splits were not checked")
    return LineageFact(name, True, found or "no check of the splits failed")
