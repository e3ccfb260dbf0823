"""The manifest tables: what is written is read back; what is missing or foreign is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from byte_flips import unnoticed_flips, unnoticed_truncations

from clipbert.config.data import IngestParams
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import (
    ROWS_PER_BATCH,
    SEGMENTS_SCHEMA,
    TEXTS_FILE,
    TEXTS_SCHEMA,
    VIDEOS_FILE,
    VIDEOS_SCHEMA,
    check,
    read_texts,
    read_videos,
    sign,
    write_table,
)
from clipbert.errors import ClipBertError
from clipbert.files.checksums import CHECKSUMS

VIDEO: dict[str, Any] = {
    "media": "videos/a.mp4",
    "kind": "video",
    "split": None,
    "sha256": "00",
    "bytes": 2**40,
    "container": "mp4",
    "codec": "h264",
    "width": 64,
    "height": 48,
    "fps": 8.0,
    "duration_s": 2.0,
    "num_frames": None,
    "rotation": 0,
    "path_taken": "decord",
    "path_reason": "plain",
}
TEXT: dict[str, Any] = {
    "id": "c0",
    "kind": "caption",
    "media": "videos/a.mp4",
    "text": "a red ball",
    "answer": None,
    "options": None,
    "answer_index": None,
    "answer_type": None,
    "split": "train",
}


def test_videos(tmp_path: Path) -> None:
    with write_table(tmp_path / VIDEOS_FILE, VIDEOS_SCHEMA) as table:
        table.add(VIDEO)
        table.add({**VIDEO, "media": "videos/b.mp4", "split": "val", "num_frames": 16})
    videos = read_videos(tmp_path)
    assert list(videos.columns) == VIDEOS_SCHEMA.names
    assert list(videos["split"].isna()) == [True, False]
    assert videos["num_frames"].isna().tolist() == [True, False]
    assert videos["num_frames"][1] == 16
    assert videos["bytes"][0] == 2**40


def test_texts(tmp_path: Path) -> None:
    with write_table(tmp_path / TEXTS_FILE, TEXTS_SCHEMA) as table:
        table.add(TEXT)
        table.add({**TEXT, "kind": "multiple_choice", "options": ["a", "b"], "answer_index": 1})
        table.add({**TEXT, "kind": "open_qa", "answer": "yes", "answers": ["yes", "no"], "answer_scores": [1.0, 0.3]})
    texts = read_texts(tmp_path)
    assert texts["options"].tolist() == [None, ["a", "b"], None]
    assert texts["answers"].tolist() == [None, None, ["yes", "no"]]
    assert texts["answer_scores"].tolist() == [None, None, [1.0, 0.3]]
    assert pd.isna(texts["answer_index"][0])
    assert texts["answer_index"][1] == 1


def test_texts_with_segments_have_two_more_columns(tmp_path: Path) -> None:
    with write_table(tmp_path / TEXTS_FILE, SEGMENTS_SCHEMA) as table:
        table.add({**TEXT, "start_s": 2.5, "end_s": 7.0})
        table.add({**TEXT, "start_s": None, "end_s": None})
    texts = read_texts(tmp_path)
    assert texts.columns.tolist() == [*TEXTS_SCHEMA.names, "start_s", "end_s"]
    assert texts["start_s"][0] == 2.5
    assert texts[["start_s", "end_s"]].isna().to_numpy().tolist() == [[False, False], [True, True]]


def test_many_rows_are_written_in_batches(tmp_path: Path) -> None:
    count = 2 * ROWS_PER_BATCH + 1
    with write_table(tmp_path / TEXTS_FILE, TEXTS_SCHEMA) as table:
        for index in range(count):
            table.add({**TEXT, "id": str(index)})
    assert pq.ParquetFile(tmp_path / TEXTS_FILE).num_row_groups == 3
    assert read_texts(tmp_path)["id"].tolist() == [str(index) for index in range(count)]


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(
        ClipBertError, match=r"videos\.parquet: no such file\. Make the manifest first: clipbert ingest"
    ):
        read_videos(tmp_path)


def test_damaged_manifest(tmp_path: Path) -> None:
    (tmp_path / TEXTS_FILE).write_bytes(b"PAR1 nothing")
    sign(tmp_path)
    with pytest.raises(ClipBertError, match=r"texts\.parquet: cannot be read"):
        read_texts(tmp_path)


def test_manifest_of_another_version(tmp_path: Path) -> None:
    pq.write_table(pa.table({"media": ["a"]}), tmp_path / VIDEOS_FILE)
    sign(tmp_path)
    with pytest.raises(ClipBertError, match="its columns are media; expected media, kind"):
        read_videos(tmp_path)


@pytest.mark.slow
def test_a_changed_bit_in_any_file_is_noticed(tmp_path: Path, tiny_data: Callable[..., Path]) -> None:
    data = tiny_data(tmp_path / "data")
    (data / "videos" / "empty.mp4").touch()
    out = tmp_path / "artifacts" / "manifest"
    ingest(data, out, IngestParams(max_quarantined_fraction=0.5))
    for path in sorted(out.iterdir()):
        name = path.name if path.name != CHECKSUMS else VIDEOS_FILE
        assert unnoticed_flips(path, lambda name=name: check(out, name)) == [], path.name
        assert unnoticed_truncations(path, lambda name=name: check(out, name)) == [], path.name
    assert unnoticed_flips(out / VIDEOS_FILE, lambda: read_videos(out), count=20) == []
    assert unnoticed_flips(out / TEXTS_FILE, lambda: read_texts(out), count=20) == []
    (out / CHECKSUMS).unlink()
    with pytest.raises(ClipBertError, match=r"checksums\.sha256: cannot be read .* Rerun: clipbert ingest"):
        read_videos(out)
