"""Reading of the inbox: which files are complete, which rows are new, which media they need."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from clipbert.config.data import InboxParams
from clipbert.data.annotations import LineError, parse_line, parse_object, read_lines
from clipbert.data.inbox.batch import Batch, Media, Row
from clipbert.data.inbox.present import Present, content_digest
from clipbert.data.inbox.seen import Entry, Seen
from clipbert.data.inbox.source import Arrival, ChangedError, Source, unfinished, unusable
from clipbert.files.atomic import sha256_file

HOUR_S = 3600.0


@dataclass
class Listing:
    """Files of the inbox by what is done with them.

    Attributes:
        ready: complete files by name.
        ignored: why files are neither read nor moved.
    """

    ready: dict[str, Arrival] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


def list_inbox(source: Source, seen: Seen, batch: Batch, params: InboxParams, now: float) -> Listing:
    """Return the complete files; add the others to `batch.waiting`.

    A file is complete if it has not changed for `inbox.stable_s`, by its own times or, if these are in the future,
    since it was first seen.
    """
    arrivals = source.arrivals()
    listing = Listing()
    marked = unfinished(arrivals)
    seen.keep_only({arrival.name for arrival in arrivals})
    for arrival in arrivals:
        if arrival.name in marked:
            batch.waiting[arrival.name] = f"incomplete: {marked[arrival.name]}"
        elif reason := unusable(arrival):
            listing.ignored[arrival.name] = reason
        else:
            entry = seen.entry(arrival, now)
            if entry.finished:
                continue
            since = entry.since if arrival.changed is None or arrival.changed > now else arrival.changed
            if arrival.changed is not None and now - since < params.stable_s:
                batch.waiting[arrival.name] = f"incomplete: it changed {max(0.0, now - since):.0f} s ago"
            else:
                listing.ready[arrival.name] = arrival
    return listing


@dataclass
class Reader:
    """One pass over the complete files of the inbox.

    Args:
        staging: folder for copies.
    """

    source: Source
    seen: Seen
    present: Present
    params: InboxParams
    batch: Batch
    listing: Listing
    staging: Path
    now: float = field(default_factory=time.time)

    def read(self) -> None:
        """Fill the batch with the new rows and the media that they name, each copied."""
        usable = self.present.usable
        keys: dict[tuple[str, str], Row] = {}
        for arrival in list(self.listing.ready.values()):
            if arrival.annotations is not None:
                self._read_rows(arrival, keys)
        named = {row.text.media for row in self.batch.rows.values()}
        for name, arrival in sorted(self.listing.ready.items()):
            if arrival.is_media:
                self._read_media(arrival, name in named)
        for row in list(self.batch.rows.values()):
            media = row.text.media
            if media in self.batch.media or media in usable:
                continue
            if reason := self.present.quarantined.get(media):
                self.batch.refuse_row(row, "media", f"media {media!r} of data/ is in quarantine: {reason}")
            elif media in self.batch.waiting:
                self._wait(row, f"{media} is {self.batch.waiting[media]}")
            elif self._waited_too_long(row.name):
                self.batch.refuse_row(
                    row,
                    "missing",
                    f"media {media!r} is neither in the inbox nor in data/, after {self.params.max_wait_h:g} hours",
                )
            else:
                self._wait(row, f"media {media!r} has not arrived")

    def _wait(self, row: Row, reason: str) -> None:
        del self.batch.rows[row.key]
        self.batch.waiting.setdefault(row.name, f"line {row.line}: {reason}")

    def _waited_too_long(self, name: str) -> bool:
        return self.now - self._entry(name).since > self.params.max_wait_h * HOUR_S

    def _entry(self, name: str) -> Entry:
        return self.seen.entry(self.listing.ready[name], self.now)

    def _read_rows(self, arrival: Arrival, keys: dict[tuple[str, str], Row]) -> None:
        form = arrival.annotations
        assert form is not None
        path = self.staging / "texts" / arrival.name
        try:
            self.source.copy(arrival, path)
        except ChangedError:
            self._changed(arrival)
            return
        refused_before = set(self._entry(arrival.name).refused)
        for number, raw in read_lines(path):
            if number in refused_before:
                continue
            shown = raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
            try:
                text = parse_line(raw, form, path, number, split_required=False)
                value = parse_object(raw, form, number)
            except LineError as error:
                self.batch.refuse_line(arrival.name, number, shown, "line", str(error))
                continue
            if text is None or value is None:
                continue
            row = Row(arrival.name, number, shown, value, form, text)
            digest = content_digest(text)
            if (known := self.present.contents.get(row.key)) is not None:
                if known == digest:
                    self.batch.present_rows += 1
                else:
                    reason = f"id {text.id!r} is the id of another text in data/{form.name}"
                    self.batch.refuse_line(arrival.name, number, shown, "id_used", reason, row)
            elif (first := keys.setdefault(row.key, row)) is not row:
                if content_digest(first.text) == digest and first.text.split == text.split:
                    self.batch.present_rows += 1
                else:
                    reason = f"id {text.id!r} is the id of another text, on line {first.line} of {first.name}"
                    self.batch.refuse_line(arrival.name, number, shown, "id_used", reason, row)
            else:
                self.batch.add_row(row)

    def _changed(self, arrival: Arrival) -> None:
        self.batch.waiting[arrival.name] = "incomplete: it changed while it was read"
        del self.listing.ready[arrival.name]
        self.seen.forget(arrival.name)

    def _read_media(self, arrival: Arrival, named: bool) -> None:
        """Copy a media file that is needed, or that is set aside."""
        name, target = arrival.name, self.present.data / arrival.name
        exists = target.is_file()
        if not (named or exists or self._waited_too_long(name)):
            self.batch.waiting[name] = "no row names it yet"
            return
        path = self.staging / "media" / name
        try:
            sha256 = self.source.copy(arrival, path)
        except ChangedError:
            self.batch.waiting[name] = "incomplete: it changed while it was read"
            self.seen.forget(name)
            return
        if exists and sha256_file(target) == sha256:
            self.batch.present_media += 1
            path.unlink()
            return
        self.batch.media[name] = Media(arrival, path, sha256)
        if exists:
            self.batch.refuse_media(name, "other_bytes", f"data/{name} exists and has other bytes")
        elif not named:
            reason = f"no row names it, after {self.params.max_wait_h:g} hours"
            self.batch.refuse_media(name, "no_text", reason)
