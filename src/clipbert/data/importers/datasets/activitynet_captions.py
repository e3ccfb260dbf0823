"""Importer of ActivityNet Captions (Krishna et al., ICCV 2017) for paragraph-to-video retrieval.

As in ClipBERT, the sentences of a video are joined in the order of time into one paragraph, train.json is for training
and val_1.json for testing. val_2.json describes 4,885 of val_1's videos a second time and is left out. There is no
validation split.
"""

from pathlib import Path

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.readers import Row, json_members, shown
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError

PROTOCOL = Protocol(media={"train": 10_009, "test": 4_917}, texts={"train": 10_009, "test": 4_917})
FILES = {"train.json": "train", "val_1.json": "test"}
SECOND = "val_2.json"
LAYOUT = '{"v_ID": {"duration", "timestamps": [[start, end]], "sentences": [one for each]}}'


def activitynet_aliases(name: str) -> tuple[str, ...]:
    """Return the two names, v_ID and ID, that copies of an ActivityNet video have."""
    bare = name.removeprefix("v_")
    return f"v_{bare}", bare


@importer(
    "activitynet_captions",
    title="ActivityNet Captions",
    paper="Krishna et al., ICCV 2017",
    about="ActivityNet Captions: all sentences of a video as one paragraph, tested on val_1.",
    tasks=("retrieval", "captioning"),
    annotations="train.json, val_1.json",
    example="captions/ videos/ --hold-out val=0.05",
    published=PROTOCOL,
)
def import_activitynet_captions(annotations: Path, source: Source) -> ImportSummary:
    """Import ActivityNet Captions, one paragraph per video.

    Args:
        annotations: a folder with train.json and val_1.json, or one of them.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    paths = [annotations / name for name in (*FILES, SECOND)] if annotations.is_dir() else [annotations]
    files = {path: FILES[path.name] for path in paths if path.name in FILES and path.is_file()}
    if not files:
        raise ClipBertError(f"{annotations}: expected {' and '.join(FILES)}, a folder with them or one of them.")
    with importing(source, PROTOCOL, activitynet_aliases) as made:
        for path, split in files.items():
            for name, row in json_members(path, LAYOUT):
                made.caption(f"activitynet-{name}", name, _paragraph(row), split)
        if (annotations / SECOND).is_file():
            made.summary.notes.append(f"{SECOND} describes the videos of val_1.json a second time; it was left out")
    return made.summary


def _paragraph(row: Row) -> str:
    sentences, times = row.strings("sentences"), row.value("timestamps")
    pairs = isinstance(times, list) and all(
        isinstance(time, list) and len(time) == 2 and all(isinstance(end, int | float) for end in time)
        for time in times
    )
    if not pairs or len(times) != len(sentences):
        raise row.error(f"timestamps {shown(times)} for {len(sentences)} sentences")
    ordered = sorted(range(len(times)), key=lambda index: times[index])
    return " ".join(sentences[index].strip() for index in ordered)
