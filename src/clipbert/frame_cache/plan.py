"""Plan of a build: which entries of the current cache and of a killed run are reused, found by media or by content."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipbert.config.schema import FramesParams
from clipbert.console import console
from clipbert.data.quarantine import NotDecoded
from clipbert.errors import ClipBertError
from clipbert.frame_cache.commit import DECODED_FOLDER
from clipbert.frame_cache.index import INDEX_FILE, QUARANTINE_FILE, Entry, Index, Settings
from clipbert.frame_cache.shards import (
    END_OF_TAR,
    SHARDS,
    Packed,
    digest_of,
    named_digest,
    read_packed,
    recover_entries,
)

MISSING, LEFT_OUT, RENAMED = -1, -2, -3
ROWS_AT_ONCE = 512

Content = tuple[str, str]


@dataclass(frozen=True)
class Wanted:
    """Row of the manifest that the cache is to hold."""

    media: str
    sha256: str
    decoder: str
    duration_s: float

    @property
    def content(self) -> Content:
        """Return what the pictures depend on besides the settings."""
        return self.sha256, self.decoder


def rows(table: Any) -> Iterator[Wanted]:
    """Yield the rows of a manifest's table (media, sha256, path_taken, duration_s), sorted, read in small batches."""
    for batch in table.to_batches(ROWS_AT_ONCE):
        columns = (batch.column(name).to_pylist() for name in ("media", "sha256", "path_taken", "duration_s"))
        yield from (Wanted(*row) for row in zip(*columns, strict=True))


@dataclass
class Run:
    """Rows of the index that make up one shard; `whole`: the shard on disk is as it was written."""

    shard: str
    first: int
    count: int = 0
    bytes: int = len(END_OF_TAR)
    whole: bool = True


@dataclass
class Sources:
    """Source of the entry of each wanted media.

    `place` (wanted,) int64: its row of `index`; RENAMED - row for that of another media with the same content; MISSING
    (to be decoded, unless `recovered` has its content); or LEFT_OUT (quarantined and unchanged since).
    `repeated`: contents that several missing media share.
    """

    out: Path
    index: Index | None
    place: np.ndarray
    runs: dict[int, Run] = field(default_factory=dict)
    recovered: dict[Content, tuple[Path, Entry]] = field(default_factory=dict)
    repeated: set[Content] = field(default_factory=set)
    quarantine: dict[str, NotDecoded] = field(default_factory=dict)
    removed: int = 0
    damaged: int = 0

    def read(self, number: int) -> Packed | None:
        """Return the bytes of the row that serves the wanted media `number`; None if they are damaged."""
        assert self.index is not None
        place = int(self.place[number])
        entry = self.index[place if place >= 0 else RENAMED - place]
        return read_packed(self.out / entry.shard, entry)

    def run_at(self, number: int) -> list[Entry] | None:
        """Return the entries of an intact shard if it holds the wanted media from `number` on and no others."""
        run = self.runs.get(int(self.place[number]))
        if run is None or not run.whole or self.index is None:
            return None
        rows = np.arange(run.first, run.first + run.count)
        if not np.array_equal(self.place[number : number + run.count], rows):
            return None
        return [self.index[row] for row in rows.tolist()]

    def nothing_to_do(self, settings: Settings, listed: dict[str, NotDecoded]) -> bool:
        """Return whether the cache in `out` is complete and current, and the folder holds nothing else."""
        if self.index is None or self.index.settings != settings or self.damaged or self.quarantine != listed:
            return False
        kept = self.place[self.place != LEFT_OUT]
        shards = {run.shard for run in self.runs.values()}
        return (
            np.array_equal(kept, np.arange(len(self.index)))
            and all(run.whole for run in self.runs.values())
            and {path.name for path in self.out.glob(SHARDS)} == shards
            and (self.out / QUARANTINE_FILE).is_file()
        )


def find_sources(
    out: Path, table: Any, settings: Settings, params: FramesParams, listed: Mapping[str, NotDecoded], repair: bool
) -> Sources:
    """Compare the cache in `out` with the wanted media.

    A shard that exists with its expected size counts as whole. With `repair`, or if a shard does not, every byte is
    checked, and damaged entries count as missing.
    """
    found: Sources | None = None
    index, same_decoding = _usable_index(out, settings)
    if index is not None:
        try:
            found = _merge(out, index, table)
        except ClipBertError as error:
            console.print(f"{error}")
            index = None
    if found is None:
        found = Sources(out, None, np.full(table.num_rows, MISSING, np.int64))
    for run in found.runs.values():
        run.whole = _is_whole(out / run.shard, run, repair)
        if not run.whole:
            _drop_damaged(found, run)
    if same_decoding and not repair:
        _leave_out(found, table, params, listed)
    # without index, entries are recovered from the shards, which hold their metadata
    loose = sorted((out / DECODED_FOLDER).glob("*.tar")) + (sorted(out.glob(SHARDS)) if index is None else [])
    _find_by_content(found, table, loose, settings)
    return found


def _usable_index(out: Path, settings: Settings) -> tuple[Index | None, bool]:
    """Return the current index, if the settings allow to keep its entries, and whether the settings are the same."""
    if not (out / INDEX_FILE).is_file():
        return None, False
    try:
        index = Index(out / INDEX_FILE)
    except ClipBertError as error:
        console.print(f"{error}")
        return None, False
    changes = [
        f"{name} {index.settings.decoding.get(name)} -> {value}"
        for name, value in settings.decoding.items()
        if index.settings.decoding.get(name) != value
    ]
    if changes:
        console.print(f"frames: {', '.join(changes)}: decoding everything again")
        return None, False
    return index, True


def _merge(out: Path, index: Index, table: Any) -> Sources:
    """Merge the wanted media and the index, both sorted by media."""
    found = Sources(out, index, np.full(table.num_rows, MISSING, np.int64))
    entries = enumerate(_noting_runs(index, found.runs))
    row, entry = next(entries, (0, None))
    for number, wanted in enumerate(rows(table)):
        while entry is not None and entry.media < wanted.media:
            found.removed += 1
            row, entry = next(entries, (0, None))
        if entry is not None and entry.media == wanted.media:
            if entry.key == (wanted.media, *wanted.content):
                found.place[number] = row
            row, entry = next(entries, (0, None))
    found.removed += (entry is not None) + sum(1 for _ in entries)
    return found


def _noting_runs(index: Index, runs: dict[int, Run]) -> Iterator[Entry]:
    run: Run | None = None
    for row, entry in enumerate(index):
        if run is None or run.shard != entry.shard:
            run = runs[row] = Run(entry.shard, row)
        run.count += 1
        run.bytes += entry.length
        yield entry


def _is_whole(shard: Path, run: Run, every_byte: bool) -> bool:
    try:
        if shard.stat().st_size != run.bytes:
            return False
        return not every_byte or digest_of(shard) == named_digest(run.shard)
    except FileNotFoundError:
        return False


def _drop_damaged(found: Sources, run: Run) -> None:
    for number in np.flatnonzero((found.place >= run.first) & (found.place < run.first + run.count)).tolist():
        if found.read(number) is None:
            found.place[number] = MISSING
            found.damaged += 1


def _leave_out(found: Sources, table: Any, params: FramesParams, known: Mapping[str, NotDecoded]) -> None:
    if known:
        for number, wanted in enumerate(rows(table)):
            record = known.get(wanted.media)
            if record is not None and found.place[number] == MISSING and record.is_current(*wanted.content, params):
                found.place[number] = LEFT_OUT
                found.quarantine[wanted.media] = record


def _find_by_content(found: Sources, table: Any, loose: list[Path], settings: Settings) -> None:
    """Find files that were renamed or copied, and those that a killed run decoded."""
    if not (found.place == MISSING).any():
        return
    missing = _Missing(found.place, table)
    whole = {run.shard: run.whole for run in found.runs.values()}
    if found.index is not None:
        for row, content in enumerate(found.index.contents()):
            numbers = missing.find(content)
            if numbers and (whole[found.index[row].shard] or _reads(found, row)):
                for number in numbers:
                    found.place[number] = RENAMED - row
    for shard in loose:
        for entry in recover_entries(shard, settings.decoding):
            content = entry.sha256, entry.decoder
            if content not in found.recovered and missing.find(content):
                found.recovered[content] = shard, entry
    found.repeated = missing.repeated()


class _Missing:
    """Wanted media that are still missing, by content: eight bytes per media."""

    def __init__(self, place: np.ndarray, table: Any) -> None:
        self._place, self._table = place, table
        self._numbers = np.flatnonzero(place == MISSING)
        wanted = itertools.compress(rows(table), place == MISSING)
        keys = np.fromiter((_key_of(row.sha256) for row in wanted), np.uint64, len(self._numbers))
        order = np.argsort(keys, kind="stable")
        self._keys, self._numbers = keys[order], self._numbers[order]

    def find(self, content: Content) -> list[int]:
        """Return the missing media with this content."""
        key = np.uint64(_key_of(content[0]))
        first, last = np.searchsorted(self._keys, key), np.searchsorted(self._keys, key, side="right")
        numbers = self._numbers[first:last].tolist()
        return [number for number in numbers if self._place[number] == MISSING and self._content(number) == content]

    def repeated(self) -> set[Content]:
        """Return the contents that several missing media share."""
        twins = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        contents = {self._content(int(number)) for number in self._numbers[twins]}
        return {content for content in contents if len(self.find(content)) > 1}

    def _content(self, number: int) -> Content:
        return self._table.column("sha256")[number].as_py(), self._table.column("path_taken")[number].as_py()


def _key_of(sha256: str) -> int:
    try:
        return int(sha256[:16], 16)
    except ValueError:
        return 0


def _reads(found: Sources, row: int) -> bool:
    assert found.index is not None
    entry = found.index[row]
    return read_packed(found.out / entry.shard, entry) is not None
