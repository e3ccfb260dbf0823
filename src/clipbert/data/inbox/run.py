"""`clipbert inbox`: checks what has arrived, merges what is good into data/, and sets the rest aside with reasons."""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipbert.config.data import InboxParams, IngestParams
from clipbert.console import progress
from clipbert.data.inbox.batch import Batch, Refusal
from clipbert.data.inbox.checks import Gate, batch_tables, refuse_duplicates, refuse_failing, refuse_unnamed
from clipbert.data.inbox.merge import execute, finish, read_plan, write_plan
from clipbert.data.inbox.present import Present, read_present
from clipbert.data.inbox.read import Listing, Reader, list_inbox
from clipbert.data.inbox.seen import Seen
from clipbert.data.inbox.source import Arrival, open_source
from clipbert.data.inbox.splits import assign_splits, check_splits
from clipbert.data.ingest.probe import Rejected
from clipbert.data.ingest.runner import open_probe_cache, probe_all
from clipbert.data.ingest.select import Selection
from clipbert.data.ingest.stage import PROBE_CACHE_FILE
from clipbert.data.quarantine import REASONS
from clipbert.files.atomic import write_json
from clipbert.files.locks import file_lock

SHOWN = 10


@dataclass(frozen=True)
class Places:
    """Folders of a project that the inbox uses.

    Attributes:
        artifacts: holds the copies, the memory and the record of merged batches in its folder `inbox`.
        data: the folder that files are merged into.
        refused: the folder of refused batches.
    """

    root: Path
    artifacts: Path
    data: Path
    refused: Path

    @property
    def work(self) -> Path:
        """Folder for everything about the inbox that can be made again."""
        return self.artifacts / "inbox"

    @property
    def manifest(self) -> Path:
        """The manifest of data/ before the merge."""
        return self.work / "manifest"

    @property
    def merged(self) -> Path:
        """Folder with a JSON file for each merged batch that is not committed yet."""
        return self.work / "merged"


@dataclass
class InboxResult:
    """What one pass over the inbox did.

    Attributes:
        resumed: batches of killed passes that were finished.
        plan: of the batch; None: nothing was merged or refused.
        waiting, ignored: why files were left in the inbox, by name.
        warnings: about the data with the batch.
    """

    resumed: list[str] = field(default_factory=list)
    plan: dict[str, Any] | None = None
    waiting: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    present_rows: int = 0
    present_media: int = 0
    warnings: list[str] = field(default_factory=list)
    refused_folder: str | None = None

    def values(self) -> dict[str, Any]:
        """Return the content of result.json."""
        plan = self.plan or {}
        return {
            "batch": plan.get("batch"),
            "resumed": self.resumed,
            "media": len(plan.get("media", {})),
            "texts": plan.get("texts", {}),
            "splits": plan.get("splits", {}),
            "assigned": plan.get("assigned", {}),
            "refused": plan.get("refused", []),
            "refused_folder": self.refused_folder,
            "waiting": self.waiting,
            "ignored": self.ignored,
            "already_there": {"media": self.present_media, "texts": self.present_rows},
            "warnings": self.warnings,
        }

    def lines(self) -> list[str]:
        """Return the lines that the command prints."""
        found = [f"finished the interrupted merge of batch {name}" for name in self.resumed]
        plan = self.plan or {"media": {}, "texts": {}, "splits": {}, "refused": [], "assigned": {}}
        if plan["media"] or plan["texts"]:
            splits = ", ".join(f"{count} {split}" for split, count in plan["splits"].items())
            texts = ", ".join(f"{count} {kind}" for kind, count in sorted(plan["texts"].items()))
            found.append(
                f"merged into data/: {len(plan['media'])} media{f' ({splits})' if splits else ''}; texts: {texts}"
            )
        else:
            found.append("nothing new to merge")
        if self.present_media or self.present_rows:
            found.append(f"already in data/: {self.present_media} media, {self.present_rows} texts")
        if plan["refused"]:
            counts = Counter(refusal["code"] for refusal in plan["refused"])
            codes = ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
            found.append(f"refused: {codes}; files, rows and reasons are in {self.refused_folder}")
            found += _some(Refusal(**refusal).describe() for refusal in plan["refused"])
        for title, files in (("left in the inbox", self.waiting), ("not read", self.ignored)):
            if files:
                found.append(f"{title}: {len(files)} files")
                found += _some(f"{name}: {reason}" for name, reason in sorted(files.items()))
        return found + [f"warning: {warning}" for warning in self.warnings]


def _some(lines: Any) -> list[str]:
    shown = [f"  {line}" for line in lines]
    return shown[:SHOWN] + ([f"  and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else [])


def collect(
    places: Places,
    inbox: InboxParams,
    ingest: IngestParams,
    make_gate: Callable[[], Gate],
    on_wait: Callable[[], None] | None = None,
    recheck: bool = False,
) -> InboxResult:
    """Make one pass over the inbox; first finish a merge that was interrupted.

    Two passes at once wait for each other.

    Args:
        make_gate: returns the parameters of the checks; called when the present manifest is in `artifacts/inbox`.
        on_wait: called if another pass is running.
        recheck: look again at files of an address that were merged or refused before.

    Raises:
        ClipBertError: the inbox, data/ or the batch as a whole is wrong; nothing was merged then.
    """
    places.work.mkdir(parents=True, exist_ok=True)
    with file_lock(places.work / ".lock", -1, on_wait):
        return _collect(places, inbox, ingest, make_gate, recheck)


def _collect(
    places: Places, inbox: InboxParams, ingest: IngestParams, make_gate: Callable[[], Gate], recheck: bool
) -> InboxResult:
    result, batch = InboxResult(), Batch()
    staging = places.work / "staging"
    source = open_source(inbox.source, places.root)
    seen = Seen(places.work / "seen.json", inbox.source)
    if (plan := read_plan(staging)) is not None:
        _carry_out(plan, staging, places, source, seen)
        result.resumed.append(plan["batch"])
    shutil.rmtree(staging, ignore_errors=True)
    if recheck:
        seen.keep_only(set())
    now = time.time()
    listing = list_inbox(source, seen, batch, inbox, now)
    if listing.ready:
        present = read_present(places.data, places.artifacts, ingest)
        Reader(source, seen, present, inbox, batch, listing, staging, now).read()
        _check(batch, present, places, inbox, ingest, make_gate, staging, result)
        done = _done(batch, listing, seen)
        if batch.media or batch.rows or batch.refused or done:
            identity = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            result.plan = write_plan(batch, identity, done if source.moves else {}, seen, staging)
            if batch.refused:
                result.refused_folder = f"{inbox.refused}/{identity}"
            _carry_out(result.plan, staging, places, source, seen)
    seen.write()
    result.waiting, result.ignored = batch.waiting, listing.ignored
    result.present_rows, result.present_media = batch.present_rows, batch.present_media
    write_json(places.work / "result.json", result.values(), sort_keys=False)
    return result


def _carry_out(plan: dict[str, Any], staging: Path, places: Places, source: Any, seen: Seen) -> None:
    execute(plan, staging, places.data, places.refused, source, seen)
    if plan["media"] or plan["texts"]:
        record = {name: plan[name] for name in ("batch", "texts", "splits")} | {"media": len(plan["media"])}
        write_json(places.merged / f"{plan['batch']}.json", record | {"refused": len(plan["refused"])})
    finish(staging)


def _check(
    batch: Batch,
    present: Present,
    places: Places,
    inbox: InboxParams,
    ingest: IngestParams,
    make_gate: Callable[[], Gate],
    staging: Path,
    result: InboxResult,
) -> None:
    """Refuse media and rows that fail: decoding, duplicates, splits, and the checks of the validation."""
    if batch.media:
        _probe(batch, places, ingest, staging / "media")
    refuse_duplicates(batch, present, ingest)
    check_splits(batch, present)
    if not batch.rows:
        refuse_unnamed(batch)
        return
    gate = make_gate()
    videos, _ = batch_tables(batch, present, staging / "tables")
    assign_splits(batch, present, videos, inbox, gate.params)
    result.warnings = refuse_failing(batch, present, gate, staging / "tables")


def _probe(batch: Batch, places: Places, params: IngestParams, folder: Path) -> None:
    """Refuse the staged media files that `clipbert ingest` would quarantine."""
    selection = Selection(media=sorted(batch.media))
    with (
        open_probe_cache(places.artifacts / PROBE_CACHE_FILE, params, all_files=False) as cache,
        progress("inbox", len(selection.media)) as advance,
    ):
        for name, found in probe_all(folder, selection, params, cache):
            if isinstance(found, Rejected):
                meaning, remedy = REASONS.get(found.reason, ("", ""))
                batch.refuse_media(name, found.reason, f"{meaning}: {found.detail}", remedy)
            else:
                batch.media[name].info = found
            advance(1, name)


def _done(batch: Batch, listing: Listing, seen: Seen) -> dict[str, Arrival]:
    """Return the arrivals of which nothing is left to do, and remember that, and which lines were refused."""
    done = {}
    for name, arrival in listing.ready.items():
        entry = seen.entry(arrival, 0.0)
        entry.refused = sorted({*entry.refused, *(line for line, _ in batch.refused_lines.get(name, ()))})
        if name not in batch.waiting:
            entry.finished = True
            done[name] = arrival
    return done
