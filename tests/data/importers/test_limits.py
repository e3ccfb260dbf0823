"""No annotation file makes an importer hold more than a line or an item of it."""

import gzip
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipbert.data.importers import limits
from clipbert.data.importers import readers as reading
from clipbert.data.importers.datasets import table
from clipbert.data.importers.datasets.coco_captions import import_coco_captions
from clipbert.data.importers.datasets.msrvtt_qa import read_vocabulary
from clipbert.data.importers.readers import json_records, opened
from clipbert.errors import ClipBertError

# Reads a file in a process of its own and prints how many rows there were and the growth of its peak memory in MiB.
# A pristine child, for the peak of a fork is that of its parent.
MEASURE = """
import resource, sys
from pathlib import Path
from clipbert.data.importers.readers import records
from clipbert.errors import ClipBertError
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before, rows = peak(), 0
try:
    for row in records(Path(sys.argv[1]), "rows", sys.argv[2] or None):
        rows += 1
except ClipBertError as error:
    print(error)
print(rows, round(peak() - before))
"""


def measured(path: Path, key: str = "") -> tuple[str, int, int]:
    """(what was said, rows, MiB) of reading a file."""
    done = subprocess.run([sys.executable, "-c", MEASURE, path, key], capture_output=True, text=True, check=True)
    *said, last = done.stdout.splitlines()
    rows, peak = last.split()
    return "\n".join(said), int(rows), int(peak)


def write_repeated(path: Path, head: str, piece: str, count: int, tail: str) -> Path:
    """Write a piece many times over, packed where the name says so."""
    block = piece * 1000
    if path.suffix == ".zip":
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("inner.json", "w", force_zip64=True) as file,
        ):
            file.write(head.encode())
            for _ in range(count // 1000):
                file.write(block.encode())
            file.write(tail.encode())
        return path
    with path.open("w") as file:
        file.write(head)
        for _ in range(count // 1000):
            file.write(block)
        file.write(tail)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_line.json", "packed.json.zip"])
def test_a_list_on_one_line_is_streamed(tmp_path: Path, name: str) -> None:
    words = " ".join(f"w{(n * 7919) % 1000}" for n in range(150))
    piece = json.dumps({"id": 1, "caption": words}) + ","
    path = write_repeated(
        tmp_path / name, '{"images": [', piece, 100_000, '{}], "annotations": [{"id": 1}, {"id": 2}]}'
    )
    said, rows, peak = measured(path, "annotations")
    assert (said, rows) == ("", 2)
    assert peak < 40, peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "piece", "said"),
    [
        ("a.json", '[{"id": 1}, {"text": "', "x" * 100, "a.json: item 2: a string or number is larger than 16 MiB"),
        (
            "b.json",
            '[{"id": 1}, {"a": ["',
            'x", "y' * 10,
            "b.json: item 2: it is larger than 16 MiB, the limit of a JSON item",
        ),
        ("c.jsonl", '{"id": 1}\n{"text": "', "x" * 100, "c.jsonl: line 2: longer than 16 MiB, the limit of a line"),
        ("d.csv", 'a,b\n1,"', "x" * 100, "d.csv: line 2: longer than 16 MiB, the limit of a line"),
        ("e.csv", 'a,b\n1,"', "x" * 97 + '\n","', "e.csv: the row that ends after line"),
        ("f.csv", "", "a," * 50, "f.csv: line 1: longer than 16 MiB"),
    ],
)
def test_a_line_or_item_without_end_is_refused(tmp_path: Path, name: str, head: str, piece: str, said: str) -> None:
    path = write_repeated(tmp_path / name, head, piece, 400_000, "")
    text, _, peak = measured(path)
    assert said in text
    assert peak < 600, peak


@pytest.mark.parametrize("suffix", [".zip", ".gz"])
def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(limits, "FREE_UNPACKED_BYTES", 1 << 16)
    rows = json.dumps([{"id": 1}] * 200_000)
    path = tmp_path / f"bomb.json{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.json", rows)
    else:
        path.write_bytes(gzip.compress(rows.encode()))
    assert path.stat().st_size * 200 < len(rows)
    with pytest.raises(ClipBertError, match=r"bomb\.json\.(zip|gz): unpacks to more than .* over 200 times its size"):
        list(json_records(path, "rows"))


def test_a_vocabulary_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_WHOLE_BYTES", 100)
    (tmp_path / "v.json").write_text(json.dumps({f"answer {n}": n for n in range(100)}))
    with pytest.raises(ClipBertError, match=r"v\.json: larger than .* the limit here; expected"):
        read_vocabulary(tmp_path / "v.json")


def test_texts_that_are_held_have_a_limit(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_CHARS", 1000)
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(100)]
    path = annotated("captions_train2014.json", {"images": images, "annotations": []})
    text = failing(import_coco_captions, path, source(media("1.jpg")))
    assert "captions_train2014.json: more than" in text
    assert "of texts that must be held together, the limit" in text


def test_a_parquet_table_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"media": ["a.mp4"] * 50, "text": ["x" * 5000] * 50}), path)
    assert [row.values["text"] for row in table._parquet_rows(path)] == ["x" * 5000] * 50
    monkeypatch.setattr(table, "MAX_LINE_CHARS", 1000)
    with pytest.raises(ClipBertError, match=r"t\.parquet: row 1: column text: longer than"):
        list(table._parquet_rows(path))
    monkeypatch.setattr(table, "MAX_ROW_GROUP_BYTES", 100)
    with pytest.raises(ClipBertError, match=r"t\.parquet: row group 1 has .* more than the limit"):
        list(table._parquet_rows(path))


def test_an_encrypted_zip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", "[]")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag of the local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and of the directory
    path.write_bytes(content)
    with pytest.raises(ClipBertError, match=r"a\.json\.zip: is encrypted"), opened(path):
        pass
