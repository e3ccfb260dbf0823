"""Importer of ActivityNet Captions (Krishna et al., ICCV 2017) for paragraph-to-video or sentence-to-segment retrieval.

As in ClipBERT, the sentences of a video are joined in the order of time into one paragraph, train.json is for training
and val_1.json for testing. val_2.json describes 4,885 of val_1's videos a second time and is left out. There is no
validation split. With `texts` "segments" each sentence is a text of its own, about its segment of the video.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.readers import Row, json_members, shown
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError
from clipbert.sampling.segments import Segment

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
    about="ActivityNet Captions: a paragraph per video, or a sentence per segment; tested on val_1.",
    tasks=("retrieval", "captioning"),
    annotations="train.json, val_1.json",
    example="captions/ videos/ --hold-out val=0.05",
    published=PROTOCOL,
    options={"texts": "All sentences of a video as one paragraph, or each sentence with its segment."},
)
def import_activitynet_captions(
    annotations: Path, source: Source, texts: Literal["paragraphs", "segments"] = "paragraphs"
) -> ImportSummary:
    """Import ActivityNet Captions.

    Args:
        annotations: a folder with train.json and val_1.json, or one of them.
        texts: one paragraph per video, or one sentence per segment.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    paths = [annotations / name for name in (*FILES, SECOND)] if annotations.is_dir() else [annotations]
    files = {path: FILES[path.name] for path in paths if path.name in FILES and path.is_file()}
    if not files:
        raise ClipBertError(f"{annotations}: expected {' and '.join(FILES)}, a folder with them or one of them.")
    protocol = PROTOCOL if texts == "paragraphs" else replace(PROTOCOL, texts={})
    with importing(source, protocol, activitynet_aliases) as made:
        for path, split in files.items():
            for name, row in json_members(path, LAYOUT):
                sentences = list(_sentences(row))
                if texts == "paragraphs":
                    paragraph = " ".join(text for text, _, _ in sorted(sentences, key=lambda found: found[1:]))
                    made.caption(f"activitynet-{name}", name, paragraph, split)
                    continue
                duration = row.seconds("duration")
                for number, (text, start, end) in enumerate(sentences):
                    if end <= start or start >= duration:
                        made.drop("a segment without duration, or after the end of its video")
                        continue
                    segment = Segment.of(start, None if end >= duration else end)
                    made.caption(f"activitynet-{name}-{number}", name, text, split, segment)
        if (annotations / SECOND).is_file():
            made.summary.notes.append(f"{SECOND} describes the videos of val_1.json a second time; it was left out")
    return made.summary


def _sentences(row: Row) -> Iterator[tuple[str, float, float]]:
    """Yield (sentence, start in seconds, end in seconds) in the order of the file."""
    sentences, times = row.strings("sentences"), row.value("timestamps")
    pairs = isinstance(times, list) and all(
        isinstance(time, list) and len(time) == 2 and all(isinstance(end, int | float) for end in time)
        for time in times
    )
    if not pairs or len(times) != len(sentences):
        raise row.error(f"timestamps {shown(times)} for {len(sentences)} sentences")
    for sentence, (start, end) in zip(sentences, times, strict=True):
        yield sentence.strip(), start, end
