"""MSVD-QA: the real validation file, and names by the mapping."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipbert.data.importers.datasets.msvd_qa import import_msvd_qa

ROWS = [
    {"answer": "someone", "id": 7, "question": "who pours?", "video_id": 1},
    {"answer": "pour", "id": 8, "question": "is it pouring?", "video_id": 2},
]


def test_real_file(real: Path, named: Callable[..., Path], source: Callable[..., Any]) -> None:
    folder = named((f"vid{number}" for number in range(1201, 1451)), ".mp4")
    summary = import_msvd_qa(real / "msvd_qa", source(folder))
    assert dict(summary.written) == {("open_qa", "val"): 6_415}
    assert len(summary.media) == 245
    lines = summary.lines()
    assert "val: 6415 texts, as published" in [line.replace("245 media, ", "") for line in lines]
    assert "train: not in these files (published: 30933 texts)" in lines
    assert "answer vocabulary: no train answers here, so it is unknown (published size: 1000)" in lines


def test_names_of_the_mapping(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    path = annotated("train_qa.json", ROWS)
    annotated("youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\r\nabc_1_2 vid2\r\n")
    summary = import_msvd_qa(path.parent, source(media("-4wsuPCjDBc_5_15.avi", "vid2.mp4")))
    assert rows("open_qa.jsonl") == [
        {
            "id": "msvd-7",
            "question": "who pours?",
            "answer": "someone",
            "answer_type": "who",
            "media": "videos/-4wsuPCjDBc_5_15.avi",
            "split": "train",
        },
        {
            "id": "msvd-8",
            "question": "is it pouring?",
            "answer": "pour",
            "answer_type": "what",
            "media": "videos/vid2.mp4",
            "split": "train",
        },
    ]
    assert (
        "answer vocabulary: the 2 most frequent train answers (tasks.open_qa.max_answers=1000), "
        "which cover 100.0 % of train" in summary.lines()
    )


def test_wrong_mapping(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    path = annotated("train_qa.json", ROWS)
    annotated("youtube_mapping.txt", "one two three\n")
    text = failing(import_msvd_qa, path, source(media("vid1.mp4")))
    assert "youtube_mapping.txt: line 1: 'one two three'; expected `YOUTUBE_START_END vid1`" in text
