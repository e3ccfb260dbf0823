"""Importer of MSR-VTT (Xu et al., CVPR 2016): 10,000 videos with 20 captions each.

Splits, by the name of the protocol:

- `official`: all captions; every caption of a test video is a query.
- `7k`: train and val as official, tested on the 1kA pairs, as in ClipBERT. Papers that say 7k for 7,010 training videos
  train on val too.
- `9k`, `1kA`: trained on the 9,000 videos outside 1kA (Gabeur et al., ECCV 2020), tested on the 1kA pairs.

1kA (Yu et al., JSFusion, ECCV 2018) is a csv of 1,000 test videos with one sentence each.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from clipbert.data.importers.base import Import, Source, importing
from clipbert.data.importers.datasets.msrvtt_mc import add_choices
from clipbert.data.importers.datasets.msrvtt_qa import VOCABULARY, add_questions
from clipbert.data.importers.readers import json_records, table_rows
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError

OFFICIAL_SPLITS = {"train": "train", "validate": "val", "test": "test"}
OFFICIAL = Protocol(
    media={"train": 6_513, "val": 497, "test": 2_990}, texts={"train": 130_260, "val": 9_940, "test": 59_800}
)
PROTOCOLS = {
    "official": OFFICIAL,
    "7k": Protocol(
        media={"train": 6_513, "val": 497, "test": 1_000}, texts={"train": 130_260, "val": 9_940, "test": 1_000}
    ),
    "9k": Protocol(media={"train": 9_000, "test": 1_000}, texts={"train": 180_000, "test": 1_000}),
    "1kA": Protocol(media={"train": 9_000, "test": 1_000}, texts={"train": 180_000, "test": 1_000}),
}
ANNOTATIONS_PATTERN = "*videodatainfo.json*"
PAIRS_PATTERN = "*JSFUSION_test.csv"
LAYOUT = '{"videos": [{"video_id", "split"}], "sentences": [{"video_id", "sen_id", "caption"}]}'
PAIRS_LAYOUT = "the columns key, vid_key, video_id, sentence"


@importer(
    "msrvtt",
    title="MSR-VTT",
    paper="Xu et al., CVPR 2016",
    about="MSR-VTT: captions by the official, 7k, 9k or 1kA split, and optionally MSRVTT-QA and MSRVTT-MC.",
    tasks=("retrieval", "captioning", "open_qa", "multiple_choice"),
    annotations="train_val_videodatainfo.json, test_videodatainfo.json",
    example="MSRVTT/ videos/ --split 7k --qa val.jsonl",
    published=PROTOCOLS,
    options={
        "split": "Which videos are for training and testing.",
        "pairs": "MSRVTT_JSFUSION_test.csv, for 7k, 9k and 1kA.",
        "captions_per_test_video": "Keep this many captions of each test video. Default: all.",
        "qa": "MSRVTT-QA questions, one JSON object per line.",
        "mc": "The multiple-choice test, see msrvtt_mc.",
    },
)
def import_msrvtt(
    annotations: Path,
    source: Source,
    split: Literal["official", "7k", "9k", "1kA"] = "official",
    pairs: Path | None = None,
    captions_per_test_video: int | None = None,
    qa: Path | None = None,
    mc: Path | None = None,
) -> ImportSummary:
    """Import MSR-VTT.

    Args:
        annotations: a videodatainfo.json, its zip, or a folder with several of either (train_val and test).
        split: a name in PROTOCOLS.
        pairs: the 1kA csv, which all but `official` need; searched in a folder of annotations.
        captions_per_test_video: how many captions of each test video are kept; None: all.
        qa: MSRVTT-QA, one JSON object per line (see `msrvtt_qa`); its splits are those of the captions.
        mc: the multiple-choice test (see `msrvtt_mc`).

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`; nothing is written then.
    """
    if captions_per_test_video is not None and captions_per_test_video < 1:
        raise ClipBertError(f"captions_per_test_video = {captions_per_test_video}: expected at least 1.")
    if split not in PROTOCOLS:
        raise ClipBertError(f"split {split}: expected one of {', '.join(PROTOCOLS)}.")
    files = _files(annotations)
    splits = _read_splits(annotations, files)
    tested = None if split == "official" else _pairs_file(annotations, pairs, split)
    trained = splits
    if tested is not None:
        tests = {name for name, _, _ in _read_pairs(tested)}
        if split == "7k":
            trained = {name: of for name, of in splits.items() if of != "test" and name not in tests}
        else:
            trained = {name: "train" for name in splits if name not in tests}
        splits = trained | dict.fromkeys(tests, "test")
    protocol = PROTOCOLS[split]
    if qa or mc or captions_per_test_video:
        protocol = replace(protocol, texts={})
    with importing(source, protocol, vocabulary=VOCABULARY) as made:
        used: Counter[str] = Counter()
        captions = (caption for caption in _read_captions(files) if caption[0] in trained)
        for name, identity, text in itertools.chain(captions, _read_pairs(tested) if tested else ()):
            limit = captions_per_test_video if splits[name] == "test" else None
            if limit is None or used[name] < limit:
                used[name] += made.caption(identity, name, text, splits[name])
        if qa is not None:
            add_questions(made, qa, splits)
            _need(made, "open_qa", qa)
        if mc is not None:
            add_choices(made, mc, splits)
            _need(made, "multiple_choice", mc)
    return made.summary


def _need(made: Import, kind: str, path: Path) -> None:
    if not made.summary.texts(kind):
        raise ClipBertError(f"{path}: none of its questions is about an imported video.")


def _files(path: Path) -> list[Path]:
    sources = sorted(path.glob(ANNOTATIONS_PATTERN)) if path.is_dir() else [path]
    if not sources:
        raise ClipBertError(f"{path}: no file in it matches {ANNOTATIONS_PATTERN}.")
    return sources


def _read_splits(path: Path, files: list[Path]) -> dict[str, str]:
    """Return {video id: split} of all files together; at least one video and one caption are required."""
    splits: dict[str, str] = {}
    for source in files:
        for row in json_records(source, LAYOUT, "videos"):
            split = OFFICIAL_SPLITS.get(row.text("split"))
            if split is None:
                found = f"{row.text('video_id')} has split {row.text('split')!r}"
                raise ClipBertError(f"{source}: {found}; expected one of {', '.join(OFFICIAL_SPLITS)}.")
            splits[row.text("video_id")] = split
    captions = next(_read_captions(files), None)
    if not splits or captions is None:
        without = "videos" if not splits else "captions"
        raise ClipBertError(f"{path}: holds no {without}; nothing to import.")
    return splits


def _read_captions(files: list[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield (video id, caption id, caption) of all files together."""
    for source in files:
        for row in json_records(source, LAYOUT, "sentences"):
            # Files of different years count their sentences from the same number.
            name = row.text("video_id")
            yield name, f"caption-{name}-{row.text('sen_id')}", row.text("caption")


def _pairs_file(annotations: Path, pairs: Path | None, split: str) -> Path:
    found: Iterator[Path] = annotations.glob(PAIRS_PATTERN) if annotations.is_dir() else iter(())
    path = pairs or next(found, None)
    if path is None:
        raise ClipBertError(f"--split {split}: name the 1kA file too, --pairs MSRVTT_JSFUSION_test.csv.")
    return path


def _read_pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (video id, caption id, sentence) of the 1kA test."""
    for row in table_rows(path, PAIRS_LAYOUT):
        yield row.text("video_id"), f"caption-{row.text('key')}", row.text("sentence")
