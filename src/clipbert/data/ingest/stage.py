"""Stage ingest: probe every file below data/, check every annotation, write the manifest atomically."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clipbert.config.data import IngestParams
from clipbert.console import progress
from clipbert.data import manifest
from clipbert.data.annotations import SPLITS, ErrorList, Text, annotation_files, stream_texts
from clipbert.data.ingest.probe import MediaInfo, Rejected
from clipbert.data.ingest.probe_cache import ProbeCache
from clipbert.data.ingest.runner import open_probe_cache, probe_all
from clipbert.data.ingest.select import Selection, select_media
from clipbert.data.quarantine import Quarantined, write_quarantine
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, write_json
from clipbert.files.linked_folders import check_data, dvc_caches
from clipbert.video.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES

PROBE_CACHE_FILE = Path("probes") / "probes.sqlite"
SPLIT_PRIORITY = ("test", "val", "train")
LISTED_FILES = 50
DROPPED_EXAMPLES = 20
SUMMARY_FILES = 5
MISSING = "media missing"


@dataclass
class IngestSummary:
    """Result of the stage: what was found and written."""

    media: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    decoders: Counter[str] = field(default_factory=Counter)
    duration_s: float = 0.0
    bytes: int = 0
    ignored_files: int = 0
    damaged: int = 0
    remarks: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, Rejected] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    moved_texts: int = 0
    dropped_texts: Counter[str] = field(default_factory=Counter)
    segments: int = 0

    def count(self, found: MediaInfo, split: str | None) -> None:
        """Add a usable file."""
        self.media[found.kind] += 1
        self.decoders[found.path_taken] += 1
        self.duration_s += found.duration_s if found.kind == "video" else 0.0
        self.bytes += found.bytes
        self.damaged += found.damage is not None
        if split is not None:
            self.splits[split] += 1

    def lines(self) -> list[str]:
        """Return the lines that the stage prints."""
        by_split = ", ".join(f"{self.splits[split]} {split}" for split in SPLITS)
        unnamed = self.media.total() - sum(self.splits[split] for split in SPLITS)
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
                found.append(f"  and {len(self.quarantined) - SUMMARY_FILES} more: clipbert quarantine list")
        if self.damaged:
            found.append(f"damaged in part and used nevertheless: {self.damaged} (column damage of the videos table)")
        if self.remarks:
            found.append(
                f"frames differ from what a player shows: {len(self.remarks)} (column remarks of the videos table)"
            )
            found += [f"  {media}: {remark}" for media, remark in list(self.remarks.items())[:SUMMARY_FILES]]
        if self.moved_texts:
            found.append(f"texts of duplicates, given to the file that stays: {self.moved_texts}")
        if self.segments:
            found.append(f"texts about a segment of their video: {self.segments}")
        if self.dropped_texts:
            found.append(f"texts dropped: {_counts(self.dropped_texts)} (see {manifest.DROPPED_TEXTS_FILE})")
        if self.ignored_files:
            found.append(f"other files below data/, left alone: {self.ignored_files}")
        return found


def ingest(
    data: Path, out: Path, params: IngestParams, memory: Path | None = None, retry: Iterable[str] = ()
) -> IngestSummary:
    """Probe every media file of `data` and write the manifest to the folder `out`, replacing the old one.

    Annotations are checked first, so that a typing error does not wait for the probing. Memory holds names and text
    ids, never rows.

    Args:
        memory: the probe cache, with which unchanged files are not probed again; None: in the parent folder of `out`.
        retry: files to probe again even if the probe cache has them.

    Raises:
        ClipBertError: no data, wrong annotation lines, too many files in quarantine, or nothing left; `out` is then
            as it was.
    """
    if not data.is_dir():
        raise ClipBertError(
            f"{data}: no such folder. Put your videos and annotations there, or make the sample set: "
            "clipbert sample-data"
        )
    check_data(data)
    splits, segments = _check_texts(data)
    selection = select_media(data, splits, dvc_caches(data.absolute().parent))
    summary = IngestSummary(ignored_files=selection.ignored_files)
    if not selection.media:
        names = ", ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
        raise ClipBertError(f"{data}: no video or image in it. Put some below {data / 'videos'}; known types: {names}")
    with atomic_directory(out) as folder:
        with open_probe_cache(memory or out.parent / PROBE_CACHE_FILE, params) as cache:
            for name in retry:
                cache.forget(name)
            usable = _write_videos(folder, data, selection, splits, params, cache, summary)
        _check_enough(data, usable, summary, params)
        schema = manifest.SEGMENTS_SCHEMA if segments else manifest.TEXTS_SCHEMA
        _write_texts(folder, data, usable, summary, schema)
        write_quarantine(
            folder / manifest.QUARANTINE_FILE,
            (Quarantined(name, **asdict(why)) for name, why in summary.quarantined.items()),
        )
        manifest.sign(folder)
    return summary


def _check_texts(data: Path) -> tuple[dict[str, str], bool]:
    """Read all annotations once; return the split of each media that a text names, and whether a text has a segment."""
    errors = ErrorList()
    splits: dict[str, str] = {}
    segments = False
    for text in stream_texts(data, errors.add):
        segments |= text.has_segment
        splits[text.media] = min(text.split, splits.get(text.media, text.split), key=SPLIT_PRIORITY.index)
    errors.raise_any()
    if not splits:
        names = ", ".join(str(path) for _, path in annotation_files(data))
        raise ClipBertError(f"{names}: no text in it; expected one JSON object a line.")
    return splits, segments


def _write_videos(
    folder: Path,
    data: Path,
    selection: Selection,
    splits: dict[str, str],
    params: IngestParams,
    cache: ProbeCache,
    summary: IngestSummary,
) -> dict[str, str]:
    """Write the videos table; return the usable media and their kinds."""
    usable: dict[str, str] = {}
    first_of: dict[tuple[str, str | None], str] = {}
    with (
        manifest.write_table(folder / manifest.VIDEOS_FILE, manifest.VIDEOS_SCHEMA) as table,
        progress("ingest", len(selection.media)) as advance,
    ):
        for name, found in probe_all(data, selection, params, cache):
            split = splits.get(name)
            if not isinstance(found, Rejected) and params.duplicates == "quarantine":
                twin = first_of.setdefault((found.sha256, split), name)
                if twin != name:
                    summary.twins[name] = twin
                    found = Rejected("duplicate", f"the same bytes as {twin}")
            if isinstance(found, Rejected):
                summary.quarantined[name] = found
            else:
                usable[name] = found.kind
                table.add({"media": name, "split": split, **asdict(found)})
                summary.count(found, split)
                if found.remarks is not None:
                    summary.remarks[name] = found.remarks
            advance(1, f"{len(summary.quarantined)} quarantined")
    return usable


def _check_enough(data: Path, usable: dict[str, str], summary: IngestSummary, params: IngestParams) -> None:
    lost = [(media, why) for media, why in summary.quarantined.items() if media not in summary.twins]
    bad, total = len(lost), len(usable) + len(lost)
    listed = [f"  {_describe(media, why)}" for media, why in lost[:LISTED_FILES]]
    if bad > LISTED_FILES:
        listed.append(f"  and {bad - LISTED_FILES} more")
    files = "\n".join(listed)
    if not usable:
        raise ClipBertError(f"{data}: none of its {total} media files can be used:\n{files}")
    if bad / total > params.max_quarantined_fraction:
        raise ClipBertError(
            f"{data}: {bad} of {total} media files ({bad / total:.1%}) cannot be used, more than "
            f"ingest.max_quarantined_fraction = {params.max_quarantined_fraction:g} allows:\n{files}\n"
            "Fix or remove them, or raise ingest.max_quarantined_fraction."
        )


def _write_texts(folder: Path, data: Path, usable: dict[str, str], summary: IngestSummary, schema: Any) -> None:
    """Write the texts with usable media, and count the others by reason."""
    examples: list[dict[str, Any]] = []
    errors = ErrorList()
    with manifest.write_table(folder / manifest.TEXTS_FILE, schema) as table:
        for text in stream_texts(data, errors.add):
            if twin := summary.twins.get(text.media):
                text = replace(text, media=twin)
                summary.moved_texts += 1
            if text.media in usable:
                table.add(_row(text, usable[text.media]))
                summary.texts[text.kind] += 1
                summary.segments += text.has_segment
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


def _row(text: Text, media_kind: str) -> dict[str, Any]:
    row = asdict(text)
    del row["file"], row["line"]
    return row | {"media_kind": media_kind}


def _describe(media: str, rejected: Rejected) -> str:
    return f"{media}: {rejected.reason} ({rejected.detail})"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counter.items())) or "none"
