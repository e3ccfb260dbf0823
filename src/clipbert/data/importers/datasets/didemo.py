"""Importer of DiDeMo (Hendricks et al., ICCV 2017) for paragraph-to-video retrieval.

The files hold moments of Flickr videos with a sentence each. As in ClipBERT and the papers it compares with, all
sentences of a video are joined, in the order of the file, into one paragraph. A video is identified by the stem of its
name, because the files name some videos with two suffixes.
"""

from pathlib import Path

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.limits import HeldTexts
from clipbert.data.importers.media_folder import stem
from clipbert.data.importers.readers import records, split_files
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol

PROTOCOL = Protocol(
    media={"train": 8_395, "val": 1_065, "test": 1_004}, texts={"train": 8_395, "val": 1_065, "test": 1_004}
)
PATTERNS = ("*_data.json",)
LAYOUT = '{"video": "NAME.mov", "description"}'


@importer(
    "didemo",
    title="DiDeMo",
    paper="Hendricks et al., ICCV 2017",
    about="DiDeMo: all sentences of a video as one paragraph.",
    tasks=("retrieval", "captioning"),
    annotations="train_data.json, val_data.json, test_data.json",
    example="data/ videos/",
    published=PROTOCOL,
)
def import_didemo(annotations: Path, source: Source) -> ImportSummary:
    """Import DiDeMo, one paragraph per video.

    Args:
        annotations: a folder with its files, or one of them; the split is read from the name.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    files = split_files(annotations, PATTERNS, LAYOUT)
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
