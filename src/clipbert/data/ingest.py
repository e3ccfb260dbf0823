"""Stage ingest: every file below data/ probed, every annotation checked, the manifest written whole or not at all."""

import json
import os
from collections import Counter, deque
from collections.abc import Container, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipbert.console import progress
from clipbert.data import manifest
from clipbert.data.annotations import FILES, ErrorList, Text, annotation_files, stream_texts
from clipbert.data.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from clipbert.data.probe import MediaInfo, Rejected, probe
from clipbert.errors import ClipBertError
from clipbert.files import atomic_directory, write_json
from clipbert.params import IngestParams
from clipbert.workers import KillablePool, WorkerDied, WorkerTimeout

# A file's time limit grows with its size: reading a large one from a slow disk is not hanging.
SLOW_DISK_BYTES_PER_S = 20e6
IN_FLIGHT_PER_WORKER = 4
SPLIT_PRIORITY = ("test", "val", "train")
LISTED_FILES = 50
DROPPED_EXAMPLES = 20
SUMMARY_FILES = 5
MISSING = "media missing"


@dataclass
class IngestSummary:
    """What the stage found and wrote."""

    media: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    decoders: Counter[str] = field(default_factory=Counter)
    duration_s: float = 0.0
    bytes: int = 0
    ignored_files: int = 0
    quarantined: dict[str, Rejected] = field(default_factory=dict)
    dropped_texts: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """The summary a person reads."""
        by_split = ", ".join(f"{self.splits[split]} {split}" for split in manifest.SPLITS)
        unnamed = self.media.total() - sum(self.splits[split] for split in manifest.SPLITS)
        found = [
            f"media: {_counts(self.media)} ({self.duration_s / 60:.1f} min, {self.bytes / 1e6:.1f} MB); {by_split}"
            + (f", {unnamed} without a text" if unnamed else ""),
            f"decoders: {_counts(self.decoders)}",
            f"texts: {_counts(self.texts)}",
        ]
        if self.quarantined:
            reasons = Counter(rejected.reason for rejected in self.quarantined.values())
            found.append(f"quarantined: {_counts(reasons)}")
            listed = list(self.quarantined.items())[:SUMMARY_FILES]
            found += [f"  {_describe(media, rejected)}" for media, rejected in listed]
            if len(self.quarantined) > SUMMARY_FILES:
                found.append(f"  and {len(self.quarantined) - SUMMARY_FILES} more in {manifest.QUARANTINE_FILE}")
        if self.dropped_texts:
            found.append(f"texts dropped: {_counts(self.dropped_texts)} (see {manifest.DROPPED_TEXTS_FILE})")
        if self.ignored_files:
            found.append(f"other files below data/, left alone: {self.ignored_files}")
        return found


def ingest(data: Path, out: Path, params: IngestParams) -> IngestSummary:
    """Probe every media file of `data` and write the manifest to the folder `out`, replacing what is there.

    Annotations are checked first, so that a typing error does not wait for the probing. Memory holds names and text
    ids, never rows.

    Raises:
        ClipBertError: no data, wrong annotation lines, too many files in quarantine, or nothing left; `out` is then
            as it was.
    """
    if not data.is_dir():
        raise ClipBertError(
            f"{data}: no such folder. Put your videos and annotations there, or make the sample set: "
            "clipbert sample-data"
        )
    files = _walk(data)
    splits = _check_texts(data)
    summary = IngestSummary()
    media, rejected = _choose_media(data, files, splits, summary)
    if not media:
        names = ", ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
        raise ClipBertError(f"{data}: no video or image in it. Put some below {data / 'videos'}; known types: {names}")
    with atomic_directory(out) as folder:
        usable = _write_videos(folder, data, media, rejected, splits, params, summary)
        _check_enough(data, usable, summary, params)
        _write_texts(folder, data, usable, summary)
        with (folder / manifest.QUARANTINE_FILE).open("w", encoding="utf-8") as file:
            for name, why in summary.quarantined.items():
                file.write(json.dumps({"media": name, **asdict(why)}, ensure_ascii=False) + "\n")
    return summary


def _walk(data: Path) -> list[str]:
    """The paths below `data`, sorted, of all files and of links to folders; hidden ones are left out."""

    def refuse(error: OSError) -> None:
        raise ClipBertError(f"{error.filename}: cannot be read ({error.strerror}).") from error

    found = []
    for folder, subfolders, names in os.walk(data, onerror=refuse):
        place = Path(folder).relative_to(data)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        links = [name for name in subfolders if (Path(folder) / name).is_symlink()]
        found += [(place / name).as_posix() for name in (*names, *links) if not name.startswith(".")]
    return sorted(found)


def _check_texts(data: Path) -> dict[str, str]:
    """Read all annotations once: the split of each media that a text names."""
    errors = ErrorList()
    splits: dict[str, str] = {}
    for text in stream_texts(data, errors.add):
        splits[text.media] = min(text.split, splits.get(text.media, text.split), key=SPLIT_PRIORITY.index)
    errors.raise_any()
    if not splits:
        names = ", ".join(str(path) for _, path in annotation_files(data))
        raise ClipBertError(f"{names}: no text in it; expected one JSON object a line.")
    return splits


def _choose_media(
    data: Path, files: list[str], named: Container[str], summary: IngestSummary
) -> tuple[list[str], dict[str, Rejected]]:
    """The media files, and those among them that must not be opened. A file of an unknown type counts when named."""
    root = data.resolve()
    annotations = {file.name for file in FILES}
    media: list[str] = []
    rejected: dict[str, Rejected] = {}
    for name in files:
        path = data / name
        known = path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES
        to_folder = path.is_symlink() and path.is_dir()
        if to_folder and path.resolve().is_relative_to(root):
            continue
        if not (known or name in named or to_folder):
            summary.ignored_files += name not in annotations
            continue
        readable = os.fsencode(name).decode("utf-8", "backslashreplace")
        if readable != name:
            rejected[readable] = Rejected("unreadable", "the file's name is not UTF-8; rename it")
        elif path.is_symlink() and not path.resolve().is_relative_to(root):
            rejected[name] = Rejected("link_outside", f"a link that leads out of {data}; put a copy there")
        elif not path.exists():
            rejected[name] = Rejected("unreadable", "a link to nothing")
        elif not path.is_file():
            rejected[name] = Rejected("unreadable", "not a regular file")
        media.append(readable)
    return media, rejected


def _probe_all(
    data: Path, media: list[str], rejected: dict[str, Rejected], params: IngestParams
) -> Iterator[tuple[str, MediaInfo | Rejected]]:
    """Yield what each file is, in the order of `media`."""
    to_probe = len(media) - len(rejected)
    workers = max(1, min(params.workers or len(os.sched_getaffinity(0)), to_probe))
    waiting: deque[tuple[str, Future[Any] | Rejected]] = deque()
    with KillablePool(workers, params.timeout_s) as pool:
        for name in media:
            if name in rejected:
                waiting.append((name, rejected[name]))
            else:
                limit_s = params.timeout_s + _size(data / name) / SLOW_DISK_BYTES_PER_S
                waiting.append((name, pool.submit(probe, str(data), name, timeout_s=limit_s)))
            if len(waiting) >= IN_FLIGHT_PER_WORKER * workers:
                yield _settle(*waiting.popleft())
        while waiting:
            yield _settle(*waiting.popleft())


def _size(path: Path) -> int:
    """Bytes; 0 for a file that has just vanished, which its probe will report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _settle(name: str, outcome: Future[Any] | Rejected) -> tuple[str, MediaInfo | Rejected]:
    if isinstance(outcome, Rejected):
        return name, outcome
    try:
        return name, outcome.result()
    except WorkerTimeout as error:
        return name, Rejected("timeout", f"{error}; raise ingest.timeout_s if the file is good")
    except WorkerDied as error:
        reason = "memory" if "SIGKILL" in str(error) else "unreadable"
        return name, Rejected(reason, f"the decoder crashed: {error}")


def _write_videos(
    folder: Path,
    data: Path,
    media: list[str],
    rejected: dict[str, Rejected],
    splits: dict[str, str],
    params: IngestParams,
    summary: IngestSummary,
) -> set[str]:
    """Write the videos table; the names of the usable media."""
    usable = set()
    with (
        manifest.write_table(folder / manifest.VIDEOS_FILE, manifest.VIDEOS_SCHEMA) as table,
        progress("ingest", len(media)) as advance,
    ):
        for name, found in _probe_all(data, media, rejected, params):
            if isinstance(found, Rejected):
                summary.quarantined[name] = found
            else:
                usable.add(name)
                split = splits.get(name)
                table.add({"media": name, "split": split, **asdict(found)})
                summary.media[found.kind] += 1
                summary.decoders[found.path_taken] += 1
                summary.duration_s += found.duration_s if found.kind == "video" else 0.0
                summary.bytes += found.bytes
                if split is not None:
                    summary.splits[split] += 1
            advance(1, f"{len(summary.quarantined)} quarantined")
    return usable


def _check_enough(data: Path, usable: set[str], summary: IngestSummary, params: IngestParams) -> None:
    bad, total = len(summary.quarantined), len(usable) + len(summary.quarantined)
    listed = [f"  {_describe(media, rejected)}" for media, rejected in list(summary.quarantined.items())[:LISTED_FILES]]
    if bad > LISTED_FILES:
        listed.append(f"  and {bad - LISTED_FILES} more")
    files = "\n".join(listed)
    if not usable:
        raise ClipBertError(f"{data}: none of its {total} media files can be used:\n{files}")
    if bad / total > params.max_quarantined_fraction:
        raise ClipBertError(
            f"{data}: {bad} of {total} media files ({bad / total:.1%}) cannot be used, more than "
            f"ingest.max_quarantined_fraction = {params.max_quarantined_fraction:g} allows:\n{files}\n"
            "Mend or remove them, or raise ingest.max_quarantined_fraction."
        )


def _write_texts(folder: Path, data: Path, usable: set[str], summary: IngestSummary) -> None:
    """Write the texts whose media can be used, and count the others by reason."""
    examples: list[dict[str, Any]] = []
    errors = ErrorList()
    with manifest.write_table(folder / manifest.TEXTS_FILE, manifest.TEXTS_SCHEMA) as table:
        for text in stream_texts(data, errors.add):
            if text.media in usable:
                table.add(_row(text))
                summary.texts[text.kind] += 1
                continue
            why = summary.quarantined.get(text.media)
            reason = f"media quarantined: {why.reason}" if why else MISSING
            summary.dropped_texts[reason] += 1
            if len(examples) < DROPPED_EXAMPLES:
                place = {"file": text.file.name, "line": text.line}
                examples.append({**place, "id": text.id, "media": text.media, "reason": reason})
    errors.raise_any()
    if not summary.texts:
        first = "\n".join(f"  {data / e['file']}:{e['line']}: {e['media']}: {e['reason']}" for e in examples[:10])
        raise ClipBertError(
            f"{data}: no text is left, for none names a usable file:\n{first}\n"
            f"`media` is the path below {data}, as videos/a.mp4."
        )
    write_json(
        folder / manifest.DROPPED_TEXTS_FILE,
        {
            "total": summary.dropped_texts.total(),
            "by_reason": dict(summary.dropped_texts),
            "examples": examples,
        },
    )


def _row(text: Text) -> dict[str, Any]:
    row = asdict(text)
    del row["file"], row["line"]
    return row


def _describe(media: str, rejected: Rejected) -> str:
    return f"{media}: {rejected.reason} ({rejected.detail})"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counter.items())) or "none"
