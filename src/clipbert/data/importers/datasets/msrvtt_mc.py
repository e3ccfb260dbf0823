"""Importer of MSRVTT-MC (Yu et al., ECCV 2018): which of 5 captions describes a video.

There is no training split: ClipBERT answers with its retrieval model. Two public forms of the file are read: tab- or
comma-separated `key, vid_key, a1..a5, answer` (JSFusion's MSR_MC_test.csv; vid_key msr7010 is video7010) and JSON or
JSON lines with `clip_name` or `video`, `options` or `caption` (a list of 5) and `answer`. The answer counts from 0.
"""

from collections.abc import Mapping
from pathlib import Path

from clipbert.data.importers.base import Import, Source, importing
from clipbert.data.importers.media_folder import stem
from clipbert.data.importers.readers import Row, records
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol

PROTOCOL = Protocol(media={"test": 2_990}, texts={"test": 2_990})
OPTIONS = ("a1", "a2", "a3", "a4", "a5")
QUESTION = "which caption describes the video?"
LAYOUT = 'vid_key, a1 to a5, answer as a table, or {"clip_name", "options": [5 captions], "answer": 0 to 4}'


@importer(
    "msrvtt_mc",
    title="MSRVTT-MC",
    paper="Yu et al., ECCV 2018",
    about="MSRVTT-MC: which of five captions describes the video; a test without training split.",
    tasks=("multiple_choice",),
    annotations="MSR_MC_test.csv",
    example="MSR_MC_test.csv videos/",
    published=PROTOCOL,
    hold_out=False,
)
def import_msrvtt_mc(annotations: Path, source: Source) -> ImportSummary:
    """Import the multiple-choice test, a file in one of its public forms.

    Raises:
        ClipBertError: the file is missing or in none of the forms, or see `importing`.
    """
    with importing(source, PROTOCOL) as made:
        add_choices(made, annotations, "test")
    return made.summary


def add_choices(made: Import, path: Path, splits: str | Mapping[str, str]) -> None:
    """Add the questions of a file; `splits` is one split or {video: split}; questions on other videos are dropped."""
    for number, row in enumerate(records(path, LAYOUT), start=1):
        name = _video(row)
        split = splits if isinstance(splits, str) else splits.get(name)
        if split is None:
            made.drop("a video that is not in the annotations")
            continue
        identity = next((row.text(key) for key in ("qid", "key") if key in row.values), str(number))
        made.choice(f"choice-{identity}", name, QUESTION, _options(row), row.integer("answer"), split)


def _video(row: Row) -> str:
    key = next((key for key in ("clip_name", "video_id", "video") if key in row.values), "vid_key")
    name = stem(row.text(key))
    return name.replace("msr", "video", 1) if name.startswith("msr") else name


def _options(row: Row) -> list[str]:
    if "a1" in row.values:
        return [row.text(option) for option in OPTIONS]
    options = row.strings("caption" if "caption" in row.values else "options")
    if len(options) != len(OPTIONS):
        raise row.error(f"{len(options)} options, not {len(OPTIONS)}")
    return options
