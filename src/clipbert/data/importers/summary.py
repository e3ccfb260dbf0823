"""Summary of an import: what was found, compared with what the data set's authors published."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipbert.data.annotations import SPLITS

NAMED = 10
KIND_NAMES = {"caption": "captions", "open_qa": "questions", "multiple_choice": "multiple-choice questions"}


@dataclass(frozen=True)
class Protocol:
    """Published counts of a data set and notes on its use.

    Attributes:
        media: number of media in each split; texts: number of texts (paragraphs, questions).
        answers: size of the answer vocabulary.
        notes: remarks for the summary.
    """

    media: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, int] = field(default_factory=dict)
    answers: int | None = None
    notes: tuple[str, ...] = ()


@dataclass
class ImportSummary:
    """Counts of what the annotations hold, what was written, and what was left out and why."""

    protocol: Protocol = field(default_factory=Protocol)
    vocabulary: int | frozenset[str] | None = None
    media: dict[str, str] = field(default_factory=dict)  # path below data/: split
    written: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, split)
    annotated: Counter[str] = field(default_factory=Counter)  # texts of each official split
    annotated_media: dict[str, str] = field(default_factory=dict)  # name: official split
    in_two_splits: set[str] = field(default_factory=set)
    missing: dict[str, tuple[str, int]] = field(default_factory=dict)  # name: (split, texts)
    missing_texts: Counter[str] = field(default_factory=Counter)  # kind
    dropped: Counter[str] = field(default_factory=Counter)  # why
    several: dict[str, str] = field(default_factory=dict)  # name: the file taken
    ambiguous: dict[str, tuple[str, ...]] = field(default_factory=dict)  # name: files in several folders
    similar: dict[str, str] = field(default_factory=dict)  # missing name: a file with other leading zeros
    elsewhere: dict[str, str] = field(default_factory=dict)  # missing path: a file of that name in another folder
    outside: list[str] = field(default_factory=list)  # links that lead out of the media folder
    other_case: int = 0
    copied: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    notes: list[str] = field(default_factory=list)

    def count_annotated(self, kind: str, name: str, split: str) -> None:
        """Count a text of the annotations in its official split."""
        self.annotated[split] += 1
        if self.annotated_media.setdefault(name, split) != split:
            self.in_two_splits.add(name)

    def count_missing(self, kind: str, name: str, split: str) -> None:
        """Count a text with missing media."""
        self.missing_texts[kind] += 1
        self.missing[name] = (split, self.missing.get(name, (split, 0))[1] + 1)

    def count_written(self, kind: str, media: str, split: str, answer: str | int | None) -> None:
        """Count a text that was written to the canonical file of its kind."""
        self.written[kind, split] += 1
        self.media.setdefault(media, split)
        if isinstance(answer, str):
            self.answers[split][answer] += 1

    def texts(self, kind: str) -> int:
        """Return how many texts of a kind were written."""
        return sum(count for (of, _), count in self.written.items() if of == kind)

    def splits(self) -> Counter[str]:
        """Return how many media of each split were placed."""
        return Counter(self.media.values())

    def coverage(self, split: str) -> float | None:
        """Return the fraction of a split's answers that are in the vocabulary; None if either is empty."""
        known = self._known_answers()
        asked = self.answers[split]
        if not known or not asked:
            return None
        return sum(count for answer, count in asked.items() if answer in known) / asked.total()

    def lines(self) -> list[str]:
        """Return the lines that the command prints."""
        splits = self.splits()
        kinds = {media.partition("/")[0] for media in self.media}
        noun = kinds.pop() if len(kinds) == 1 else "media"
        by_split = ", ".join(f"{splits[split]} {split}" for split in SPLITS)
        how = f"{len(self.media) - self.copied} hard-linked, {self.copied} copied"
        found = [f"{noun}: {len(self.media)} ({by_split}; {how})"]
        for kind, name in KIND_NAMES.items():
            if self.texts(kind) or self.missing_texts[kind]:
                lost = self.missing_texts[kind]
                more = f" ({lost} more left out: their media is missing)" if lost else ""
                found.append(f"{name}: {self.texts(kind)}{more}")
        found += self._published_lines()
        if any(self.answers.values()):
            found.append(self._vocabulary_line())
        if self.missing:
            found.append(
                f"missing media: {len(self.missing)} of {len(self.annotated_media)}: {_named(list(self.missing))}"
                " (all in missing_media.txt)"
            )
        found += self.hints()
        if self.dropped:
            found.append(f"left out: {self.dropped_line()}")
        if self.several:
            name, taken = next(iter(self.several.items()))
            found.append(f"names with several files: {len(self.several)}, as {name}; {taken} was taken (mp4 first)")
        if self.other_case:
            found.append(f"files found under a name that differs in case: {self.other_case}")
        if self.in_two_splits:
            found.append(
                f"media with texts in two splits: {len(self.in_two_splits)}: {_named(sorted(self.in_two_splits))}; "
                "clipbert validate rejects them"
            )
        found += [*self.protocol.notes, *self.notes]
        if splits["train"] and (absent := [split for split in SPLITS if not splits[split]]):
            found.append(
                f"no {' and no '.join(absent)} split: --hold-out {absent[0]}=0.1 takes one from the training media"
            )
        return found

    def hints(self) -> list[str]:
        """Return why media that are missing may not have been found."""
        found = []
        if self.ambiguous:
            name, paths = next(iter(self.ambiguous.items()))
            found.append(
                f"ambiguous names, counted as missing: {len(self.ambiguous)}, as {name}, which may be "
                f"{_named(list(paths))}; write the folder in front of the name"
            )
        if self.similar:
            name, file = next(iter(self.similar.items()))
            found.append(
                f"missing names that differ from a file in leading zeros: {len(self.similar)}, as {name} for {file}; "
                "spreadsheets and pandas remove zeros (read the column as text): write names as the files have them"
            )
        if self.elsewhere:
            name, file = next(iter(self.elsewhere.items()))
            found.append(
                f"missing paths whose file name exists in another folder: {len(self.elsewhere)}, as {name}, where only "
                f"{file} has that name; if they are the same videos, write the path below the media folder"
            )
        if self.outside:
            found.append(
                f"links that lead out of the media folder, not used: {len(self.outside)}: {_named(self.outside)}; copy "
                "the files there, or name the folder that has them"
            )
        return found

    def dropped_line(self) -> str:
        """Return what was left out, by reason."""
        return ", ".join(f"{count} with {reason}" for reason, count in sorted(self.dropped.items()))

    def _published_lines(self) -> list[str]:
        """Return one line per split: what the files hold, compared with what was published."""
        media = Counter(self.annotated_media.values())
        lines = []
        for split in SPLITS:
            published = _counted(self.protocol.media.get(split), self.protocol.texts.get(split))
            held = _counted(media[split], self.annotated[split])
            if not published:
                continue
            if not self.annotated[split]:
                lines.append(f"{split}: not in these files (published: {published})")
            elif all(
                counts.get(split) in (None, count)
                for counts, count in ((self.protocol.media, media[split]), (self.protocol.texts, self.annotated[split]))
            ):
                lines.append(f"{split}: {held}, as published")
            else:
                lines.append(f"{split}: {held} in these files (published: {published})")
        return lines

    def _known_answers(self) -> frozenset[str]:
        if isinstance(self.vocabulary, frozenset):
            return self.vocabulary
        train = self.answers["train"]
        ordered = sorted(train, key=lambda answer: (-train[answer], answer))
        return frozenset(ordered[: self.vocabulary])

    def _vocabulary_line(self) -> str:
        known, size = self._known_answers(), self.vocabulary
        given = isinstance(size, frozenset)
        shares = [(split, self.coverage(split)) for split in SPLITS]
        covered = ", ".join(f"{100 * share:.1f} % of {split}" for split, share in shares if share is not None)
        if given:
            return f"answer vocabulary: {len(known)} answers of the file, which cover {covered}"
        if not known:
            return f"answer vocabulary: no train answers here, so it is unknown (published size: {size})"
        return (
            f"answer vocabulary: the {len(known)} most frequent train answers (tasks.open_qa.max_answers={size}), "
            f"which cover {covered}"
        )


def _counted(media: int | None, texts: int | None) -> str:
    counts = ((media, "media"), (texts, "texts"))
    return ", ".join(f"{count} {noun}" for count, noun in counts if count is not None)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
