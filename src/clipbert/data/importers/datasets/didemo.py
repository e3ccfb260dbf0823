"""Importer of DiDeMo (Hendricks et al., ICCV 2017) for paragraph-to-video or sentence-to-segment retrieval.

The files hold moments of Flickr videos with a sentence each. As in ClipBERT and the papers it compares with, all
sentences of a video are joined, in the order of the file, into one paragraph. A video is identified by the stem of its
name, because the files name some videos with two suffixes.

With `texts` "segments" each sentence is a text of its own, about its moment: of the moments that the annotators chose,
the most frequent one, and the first one of equally frequent ones. A moment is a range of parts of five seconds.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.limits import HeldTexts
from clipbert.data.importers.media_folder import stem
from clipbert.data.importers.readers import Row, records, shown, split_files
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.sampling.segments import Segment

PROTOCOL = Protocol(
    media={"train": 8_395, "val": 1_065, "test": 1_004}, texts={"train": 8_395, "val": 1_065, "test": 1_004}
)
PATTERNS = ("*_data.json",)
LAYOUT = '{"video": "NAME.mov", "description"}'
MOMENTS_LAYOUT = '{"video": "NAME.mov", "description", "annotation_id", "num_segments", "times": [[first, last], ...]}'
SENTENCES = {"train": 33_005, "val": 4_180, "test": 4_021}
PART_S = 5.0


@importer(
    "didemo",
    title="DiDeMo",
    paper="Hendricks et al., ICCV 2017",
    about="DiDeMo: a paragraph per video, or a sentence per segment.",
    tasks=("retrieval", "captioning"),
    annotations="train_data.json, val_data.json, test_data.json",
    example="data/ videos/",
    published=PROTOCOL,
    options={"texts": "All sentences of a video as one paragraph, or each sentence with its segment."},
)
def import_didemo(
    annotations: Path, source: Source, texts: Literal["paragraphs", "segments"] = "paragraphs"
) -> ImportSummary:
    """Import DiDeMo.

    Args:
        annotations: a folder with its files, or one of them; the split is read from the name.
        texts: one paragraph per video, or one sentence per segment.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    files = split_files(annotations, PATTERNS, LAYOUT)
    if texts == "segments":
        return _import_moments(files, source)
    with importing(source, PROTOCOL) as made:
        for split, path in files.items():
            sentences: dict[str, list[str]] = {}
            held = HeldTexts(path)
            for row in records(path, LAYOUT):
                sentences.setdefault(stem(row.text("video")), []).append(held.hold(row.text("description")))
            for name, descriptions in sentences.items():
                made.caption(f"didemo-{name}", name, " ".join(descriptions), split)
            total = sum(map(len, sentences.values()))
            made.summary.notes.append(f"{split}: {total} sentences joined into {len(sentences)} paragraphs")
    return made.summary


def _import_moments(files: dict[str, Path], source: Source) -> ImportSummary:
    with importing(source, replace(PROTOCOL, texts=SENTENCES)) as made:
        for split, path in files.items():
            for row in records(path, MOMENTS_LAYOUT):
                identity = f"didemo-{split}-{row.integer('annotation_id')}"
                made.caption(identity, stem(row.text("video")), row.text("description"), split, _moment(row))
    return made.summary


def _moment(row: Row) -> Segment | None:
    """Return the most frequent moment; one with the last part lasts to the end of the video."""
    times, parts = row.value("times"), row.integer("num_segments")
    pairs = isinstance(times, list) and all(
        isinstance(time, list) and len(time) == 2 and all(type(part) is int for part in time) for time in times
    )
    if not pairs or not times or not all(0 <= first <= last < parts for first, last in times):
        raise row.error(f"times {shown(times)} of {parts} parts")
    (first, last), _ = Counter(map(tuple, times)).most_common(1)[0]
    return Segment.of(PART_S * first, None if last == parts - 1 else PART_S * (last + 1))
