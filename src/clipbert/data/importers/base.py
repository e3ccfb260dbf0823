"""Common part of the importers: canonical files written atomically, media placed, missing media counted."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from clipbert.console import progress
from clipbert.data.importers.media_folder import Aliases, Ambiguous, Found, MediaFolder, media_kind
from clipbert.data.importers.seen_ids import SeenIds
from clipbert.data.importers.splits import HoldOut, hashed_split
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.data.placeholders import is_placeholder
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory
from clipbert.sampling.segments import Segment

MISSING_FILE = "missing_media.txt"
FILES = {"caption": "captions.jsonl", "open_qa": "open_qa.jsonl", "multiple_choice": "multiple_choice.jsonl"}


@dataclass(frozen=True)
class Source:
    """Media folder of an import, the folder to write to, and the fractions to hold out."""

    media: Path
    out: Path
    hold_out: HoldOut = field(default_factory=dict)


@contextlib.contextmanager
def importing(
    source: Source,
    protocol: Protocol,
    aliases: Aliases = lambda name: (name,),
    vocabulary: int | frozenset[str] | None = None,
    keep_folders: bool = False,
    unique_ids: bool = False,
) -> Iterator["Import"]:
    """Collect the texts of a data set; when the block ends, place their media and write the canonical data to `out`.

    Args:
        aliases: returns the possible file names for a name in the annotations, the likeliest first.
        vocabulary: the answer vocabulary, or the number of the most frequent training answers in it.
        keep_folders: keep the path below the media folder, which annotations may then use.
        unique_ids: ids are known to be unique, so they are not stored for a check.

    Raises:
        ClipBertError: `out` is not empty, none of the media is there, no text is left; nothing is written then.
    """
    if source.out.exists() and (not source.out.is_dir() or any(source.out.iterdir())):
        raise ClipBertError(f"{source.out}: is not an empty folder. Move it away, or import into another project.")
    media = MediaFolder(source.media, aliases)
    summary = ImportSummary(protocol, vocabulary)
    with atomic_directory(source.out) as folder, contextlib.ExitStack() as files:
        made = Import(folder, media, source.hold_out, summary, keep_folders, unique_ids, files)
        yield made
        made.finish()


class Import:
    """Import in progress: writes the texts of one data set to canonical files."""

    def __init__(
        self,
        folder: Path,
        media: MediaFolder,
        hold_out: HoldOut,
        summary: ImportSummary,
        keep_folders: bool,
        unique_ids: bool,
        files: contextlib.ExitStack,
    ) -> None:
        self.summary = summary
        self._folder = folder
        self._media = media
        self._hold_out = hold_out
        self._keep_folders = keep_folders
        self._unique_ids = unique_ids
        self._files = files
        self._open: dict[str, IO[str]] = {}
        self._ids = SeenIds()
        self._names: dict[str, str | None] = {}
        self._targets: dict[str, Path] = {}

    def caption(self, identity: str, name: str, text: str, split: str, segment: Segment | None = None) -> bool:
        """Add a caption of the media called `name`, or of a segment of it; return whether it was written."""
        return self._add("caption", identity, name, split, {"text": text}, segment=segment)

    def question(
        self,
        identity: str,
        name: str,
        question: str,
        answer: str,
        split: str,
        answer_type: str | None = None,
        answers: Mapping[str, float] | None = None,
        segment: Segment | None = None,
    ) -> bool:
        """Add an open question; `answers` maps right answers to scores. Return whether it was written."""
        texts = {"question": question, "answer": answer}
        more: dict[str, Any] = {"answer_type": answer_type} if answer_type else {}
        if answers:
            more["answers"] = answers
        return self._add("open_qa", identity, name, split, texts, more, segment)

    def choice(
        self,
        identity: str,
        name: str,
        question: str,
        options: Sequence[str],
        answer: int,
        split: str,
        segment: Segment | None = None,
    ) -> bool:
        """Add a multiple-choice question with the position of the right option; return whether it was written."""
        tidy = [" ".join(option.split()) for option in options]
        if not all(tidy):
            return self.drop("an empty option")
        if len(tidy) < 2 or not 0 <= answer < len(tidy):
            return self.drop(f"answer {answer} of {len(tidy)} options")
        more = {"options": tidy, "answer": answer}
        return self._add("multiple_choice", identity, name, split, {"question": question}, more, segment)

    def drop(self, reason: str) -> bool:
        """Count a text that is left out, by reason; return False."""
        self.summary.dropped[reason] += 1
        return False

    def _add(
        self,
        kind: str,
        identity: str,
        name: str,
        split: str,
        texts: Mapping[str, str],
        more: Mapping[str, Any] | None = None,
        segment: Segment | None = None,
    ) -> bool:
        line: dict[str, Any] = {"id": identity}
        for key, text in texts.items():
            line[key] = " ".join(text.split())
            noun = "caption" if key == "text" else key
            if not line[key]:
                return self.drop(f"an empty {noun}")
            if key != "answer" and is_placeholder(line[key]):
                return self.drop(f"{line[key]!r} as {noun}: an empty cell of the table that it was written from")
        if not self._unique_ids and not self._ids.add(kind, identity):
            return self.drop("an id that was used before")
        self.summary.count_annotated(kind, name, split)
        media = self._media_of(name)
        if split == "train" and self._hold_out:
            split = hashed_split("hold-out", name, self._hold_out)
        if media is None:
            self.summary.count_missing(kind, name, split)
            return False
        line |= {**(more or {}), "media": media, "split": split}
        if segment is not None:
            line |= {name: value for name, value in segment.columns().items() if value is not None}
        try:
            self._file(kind).write(json.dumps(line, ensure_ascii=False) + "\n")
        except UnicodeEncodeError:
            return self.drop("half of a surrogate pair")
        self.summary.count_written(kind, media, split, line.get("answer"))
        return True

    def _file(self, kind: str) -> IO[str]:
        if kind not in self._open:
            self._open[kind] = self._files.enter_context((self._folder / FILES[kind]).open("w", encoding="utf-8"))
        return self._open[kind]

    def _media_of(self, name: str) -> str | None:
        """Return the path below data/ for a name in the annotations."""
        if name not in self._names:
            found = self._media.find(name)
            self._names[name] = self._target(found.path) if isinstance(found, Found) else None
            self._note(name, found)
        return self._names[name]

    def _target(self, path: Path) -> str:
        place = path.relative_to(self._media.folder) if self._keep_folders else Path(path.name)
        kind = media_kind(path)
        if len(place.parts) > 1 and place.parts[0].lower() == kind:
            place = place.relative_to(place.parts[0])  # do not repeat a folder videos/ of MEDIA
        tidy = place.with_suffix(path.suffix.lower()).as_posix()
        target, number = f"{kind}/{tidy}", 1
        while self._targets.setdefault(target, path) != path:
            number += 1
            target = f"{kind}/{Path(tidy).with_suffix('')}-{number}{path.suffix.lower()}"
        return target

    def _note(self, name: str, found: Found | Ambiguous | None) -> None:
        if found is None:
            if elsewhere := self._media.elsewhere(name):
                self.summary.elsewhere.setdefault(name, elsewhere)
            elif similar := self._media.similar(name):
                self.summary.similar[name] = similar
        elif isinstance(found, Ambiguous):
            self.summary.ambiguous[name] = found.paths
        else:
            if found.others:
                self.summary.several[name] = found.path.name
            self.summary.other_case += found.other_case

    def finish(self) -> None:
        """Place the media and write the list of those that are missing."""
        summary = self.summary
        summary.outside = self._media.outside
        if not self._targets:
            if summary.missing:
                hints = "".join(f"\n  {line}" for line in summary.hints())
                raise ClipBertError(
                    f"{self._media.folder}: none of the {len(summary.missing)} media that the annotations name is "
                    f"there; expected files such as {next(iter(summary.missing))}, with a suffix such as .mp4 or "
                    f".jpg.{hints}"
                )
            raise ClipBertError(f"nothing to import: {summary.dropped_line() or 'the annotations hold no text'}.")
        if not summary.written.total():
            raise ClipBertError(f"nothing to import: {summary.dropped_line()}.")
        with progress("import", len(self._targets)) as advance:
            for target, path in self._targets.items():
                summary.copied += self._media.place(path, self._folder / target)
                advance(1, path.name)
        if summary.missing:
            rows = (f"{name}\t{split}\t{count} texts\n" for name, (split, count) in summary.missing.items())
            (self._folder / MISSING_FILE).write_text("".join(rows), encoding="utf-8", errors="backslashreplace")
