"""New media and rows between their arrival and the merge: what is accepted, refused, waiting or already there."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipbert.data.annotations import AnnotationFile, Text
from clipbert.data.inbox.source import Arrival
from clipbert.data.ingest.probe import MediaInfo

Key = tuple[str, str]  # kind and id of a text

# code: what to do
REMEDIES = {
    "line": "correct the line",
    "id_used": "give the text another id; to change a text that data/ has, edit the file in data/",
    "missing": "deliver the media file, or correct `media`: the path below the inbox, as videos/a.mp4",
    "no_text": "deliver a row that names the file",
    "other_bytes": "give the file another name; to replace a file, do so in data/",
    "duplicate": "name the file that data/ has, or set ingest.duplicates to keep",
    "media": "see the reason of the media file",
    "rows": "correct its rows, then put file and rows into the inbox again",
    "split": "give all texts of one video the same split, or leave out `split`",
    "near_duplicates": "give both the same split, leave out `split`, or lower validate.max_hash_distance",
}


@dataclass(frozen=True)
class Refusal:
    """Media file or row that was set aside.

    Attributes:
        file: its name in the inbox: the media file or the annotation file.
        line: of the row in the annotation file; None for a media file.
        id, media: those of the row, where they could be read.
        code: a key of REMEDIES, a reason of the quarantine, or the name of a check of `clipbert validate`.
        reason: what is wrong, with the field and the value.
        remedy: what to do.
    """

    file: str
    line: int | None
    id: str | None
    media: str | None
    code: str
    reason: str
    remedy: str

    def describe(self) -> str:
        """Return one line for a terminal."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason} ({self.code})"


@dataclass(eq=False)
class Row:
    """Row of an annotation file in the inbox.

    Attributes:
        name: of the annotation file in the inbox.
        raw: the line as it is.
        value: its JSON object.
        text: the checked text; its split is empty until it is assigned.
    """

    name: str
    line: int
    raw: str
    value: dict[str, Any]
    format: AnnotationFile
    text: Text

    @property
    def key(self) -> Key:
        """Kind and id."""
        return self.text.kind, self.text.id

    def merged_line(self) -> str:
        """Return the line to add to the annotation file in data/."""
        return json.dumps(self.value | {"split": self.text.split}, ensure_ascii=False) + "\n"


@dataclass
class Media:
    """Media file in the inbox with its staged copy, and what the probe found."""

    arrival: Arrival
    path: Path
    sha256: str
    info: MediaInfo | None = None


@dataclass
class Batch:
    """One pass over the inbox.

    Attributes:
        media: staged files by their path below data/.
        rows: rows that are not refused, waiting or already there, by kind and id.
        refused: what is set aside.
        refused_media: staged files to set aside, by name.
        refused_lines: raw lines to set aside, by the name of the annotation file in the inbox.
        waiting: why files or rows are left in the inbox, by file.
        present: rows and media files that data/ has already.
        assigned: media whose split was chosen, with the way.
    """

    media: dict[str, Media] = field(default_factory=dict)
    rows: dict[Key, Row] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    refused_media: dict[str, Media] = field(default_factory=dict)
    refused_lines: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    present_rows: int = 0
    present_media: int = 0
    assigned: dict[str, str] = field(default_factory=dict)
    _by_media: dict[str, list[Row]] = field(default_factory=dict)

    def refuse_line(self, name: str, line: int, raw: str, code: str, reason: str, row: Row | None = None) -> None:
        """Set a row aside that is in no list yet."""
        text = None if row is None else row.text
        identity, media = (None, None) if text is None else (text.id, text.media)
        self.refused.append(Refusal(name, line, identity, media, code, reason, REMEDIES.get(code, "")))
        self.refused_lines.setdefault(name, []).append((line, raw))

    def refuse_row(self, row: Row, code: str, reason: str, remedy: str | None = None) -> None:
        """Set an accepted row aside."""
        del self.rows[row.key]
        self.refuse_line(row.name, row.line, row.raw, code, reason, row)
        if remedy is not None:
            self.refused[-1] = Refusal(**(asdict(self.refused[-1]) | {"remedy": remedy}))

    def refuse_media(self, name: str, code: str, reason: str, remedy: str | None = None) -> None:
        """Set a staged media file and its rows aside."""
        self.refused_media[name] = self.media.pop(name)
        self.refused.append(Refusal(name, None, None, name, code, reason, remedy or REMEDIES.get(code, "")))
        for row in self.rows_of(name):
            self.refuse_row(row, "media", f"media {json.dumps(name)} was refused: {reason}")

    def add_row(self, row: Row) -> None:
        """Add a new row."""
        self.rows[row.key] = row
        self._by_media.setdefault(row.text.media, []).append(row)

    def rows_of(self, media: str) -> list[Row]:
        """Return the accepted rows about a media file."""
        return [row for row in self._by_media.get(media, ()) if self.rows.get(row.key) is row]

    def splits(self) -> dict[str, set[str]]:
        """Return the splits that rows give the media, without empty ones."""
        found: dict[str, set[str]] = {}
        for row in self.rows.values():
            if row.text.split:
                found.setdefault(row.text.media, set()).add(row.text.split)
        return found
