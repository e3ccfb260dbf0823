"""DiDeMo: the real files become paragraphs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipbert.data.importers.datasets.didemo import import_didemo
from clipbert.data.importers.media_folder import stem

SENTENCES = {"train": 33_005, "val": 4_180, "test": 4_021}  # as published


def test_real_files(
    real: Path,
    named: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    files = {split: json.loads((real / "didemo" / f"{split}_data.json").read_text()) for split in ("val", "test")}
    assert {split: len(found) for split, found in files.items()} == {name: SENTENCES[name] for name in files}
    names = {stem(moment["video"]) for found in files.values() for moment in found}
    summary = import_didemo(real / "didemo", source(named(names, ".mp4")))
    assert dict(summary.written) == {("caption", "val"): 1_065, ("caption", "test"): 1_004}
    assert "val: 1065 media, 1065 texts, as published" in summary.lines()
    assert "test: 4021 sentences joined into 1004 paragraphs" in summary.lines()
    told = {row["id"]: row["text"] for row in rows("captions.jsonl")}
    moments = [moment["description"] for moment in files["val"] if "6060447507_dc1a90b8ef" in moment["video"]]
    assert told["didemo-35034348999@N01_6060447507_dc1a90b8ef"] == " ".join(" ".join(moments).split())


def test_one_video_under_two_suffixes_is_one_paragraph(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    moments = [("1@N00_2_a.mov", "a dog runs."), ("3@N00_4_b.", " it barks "), ("1@N00_2_a.mp4", "it sits")]
    path = annotated("train_data.json", [{"video": video, "description": text} for video, text in moments])
    summary = import_didemo(path, source(media("1@N00_2_a.mov", "1@N00_2_a.mp4", "3@N00_4_b.m4v")))
    assert [(row["text"], row["media"]) for row in rows("captions.jsonl")] == [
        ("a dog runs. it sits", "videos/1@N00_2_a.mp4"),
        ("it barks", "videos/3@N00_4_b.m4v"),
    ]
    assert any("names with several files: 1, as 1@N00_2_a; 1@N00_2_a.mp4 was taken" in line for line in summary.lines())


def test_real_moments(
    real: Path,
    named: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    path = real / "didemo" / "val_data.json"
    names = {stem(moment["video"]) for moment in json.loads(path.read_text())}
    summary = import_didemo(path, source(named(names, ".mp4")), texts="segments")
    assert dict(summary.written) == {("caption", "val"): SENTENCES["val"]}
    found = {row["id"]: row for row in rows("captions.jsonl")}
    first = found["didemo-val-49152"]  # chosen: part 1 three times, part 0 once
    assert (first["text"], first["start_s"], first["end_s"]) == (
        "the man in the hat briefly bends over the machine",
        5.0,
        10.0,
    )
    assert {row.get("start_s", 0.0) % 5 for row in found.values()} == {0.0}


def test_the_moment_that_most_annotators_chose(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    row = {"video": "a.mov", "description": "it barks", "num_segments": 6}
    times = [[[2, 3], [0, 0], [0, 0]], [[4, 5], [1, 1]], [[0, 5]]]
    moments = [{**row, "annotation_id": number, "times": chosen} for number, chosen in enumerate(times)]
    import_didemo(annotated("test_data.json", moments), source(media("a.mov")), texts="segments")
    kept = [(row["id"], row.get("start_s"), row.get("end_s")) for row in rows("captions.jsonl")]
    # a moment with the last part lasts to the end of the video, which is not a multiple of five seconds
    assert kept == [("didemo-test-0", 0.0, 5.0), ("didemo-test-1", 20.0, None), ("didemo-test-2", None, None)]


def test_a_moment_of_parts_that_are_not_there(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    row = {"video": "a.mov", "description": "it barks", "num_segments": 6, "annotation_id": 1, "times": [[0, 6]]}
    path = annotated("train_data.json", [row])
    text = failing(import_didemo, path, source(media("a.mov")), texts="segments")
    assert "item 1: times [[0, 6]] of 6 parts" in text


def test_wrong_layout(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    path = annotated("test_data.json", [{"video": "a.mov", "description": 3.5}])
    assert "item 1: description is 3.5, not a string" in failing(import_didemo, path, source(media("a.mov")))
    path = annotated("unknown.json", [])
    assert "its name shows no split" in failing(import_didemo, path, source(media("a.mov")))
    text = failing(import_didemo, path.parent, source(media("a.mov")))
    assert "item 1: description is 3.5" in text
