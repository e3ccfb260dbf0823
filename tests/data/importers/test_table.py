"""Any table by a map of its columns; what is said of a wrong one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipbert.data.importers.datasets.table import import_table, read_map
from clipbert.data.importers.splits import read_fractions
from clipbert.errors import ClipBertError

CSV = 'clip,caption,fold\nsub/a.mp4,a dog,train\nb,"one,\ntwo",validation\nB.MP4,,dev\nmissing.mp4,gone,test\n'


def test_csv_with_a_map(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    columns = read_map(["text=caption, media=clip", "split=fold"])
    summary = import_table(
        annotated("clips.csv", CSV), source(media("sub/a.mp4", "a.mp4", "deep/b.mp4")), "caption", columns
    )
    assert rows("captions.jsonl") == [
        {"id": "caption-1", "text": "a dog", "media": "videos/sub/a.mp4", "split": "train"},
        {"id": "caption-2", "text": "one, two", "media": "videos/deep/b.mp4", "split": "val"},
    ]
    assert summary.missing == {"missing.mp4": ("test", 1)}
    assert dict(summary.dropped) == {"an empty caption": 1}


def test_two_files_of_one_name_stay_apart(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    path = annotated("clips.tsv", "media\ttext\tsplit\nx/a.mp4\tone\ttrain\ny/a.mp4\ttwo\ttest\nx/a.MP4\tthree\ttest\n")
    summary = import_table(path, source(media("x/a.mp4", "y/a.mp4", "x/a.MP4")))
    assert [row["media"] for row in rows("captions.jsonl")] == [
        "videos/x/a.mp4",
        "videos/y/a.mp4",
        "videos/x/a-2.mp4",
    ]
    assert not summary.in_two_splits


def test_a_path_with_a_folder_finds_no_file_of_another_folder(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    folder = media("run/001.mp4", "run/002.mp4")
    table = (
        f"media,text,split\nrun/001.mp4,a man runs,train\nwalk/001.mp4,a dog walks,train\n{folder}/run/002,a jump,val\n"
    )
    summary = import_table(annotated("part.csv", table), source(folder))
    assert [(row["media"], row["text"]) for row in rows("captions.jsonl")] == [
        ("videos/run/001.mp4", "a man runs"),
        ("videos/run/002.mp4", "a jump"),
    ]
    assert summary.missing == {"walk/001.mp4": ("train", 1)}
    assert any(
        "missing paths whose file name exists in another folder: 1, as walk/001.mp4, where only run/001.mp4" in line
        for line in summary.lines()
    )


def test_an_ambiguous_name_is_counted_and_told(
    annotated: Callable[..., Path], media: Callable[..., Path], source: Callable[..., Any]
) -> None:
    folder = media("run/001.mp4", "run/002.mp4")
    (folder / "walk").mkdir()
    (folder / "walk" / "001.mp4").write_bytes(b"another video")
    table = "media,text,split\n001.mp4,which one,train\n002.mp4,a run,val\n"
    summary = import_table(annotated("bare.csv", table), source(folder))
    assert summary.missing == {"001.mp4": ("train", 1)}
    said = (
        "ambiguous names, counted as missing: 1, as 001.mp4, which may be run/001.mp4, walk/001.mp4; write the folder"
    )
    assert any(said in line for line in summary.lines())


def test_missing_zeros_are_told_when_nothing_is_found(
    annotated: Callable[..., Path], media: Callable[..., Path], source: Callable[..., Any], failing: Callable[..., str]
) -> None:
    path = annotated("numbers.csv", "media,text,split\n12,a dog,train\n")
    text = failing(import_table, path, source(media("00012.mp4")))
    assert "missing names that differ from a file in leading zeros: 1, as 12 for 00012.mp4" in text


def test_a_folder_videos_is_not_repeated(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    table = "media,text,split\nvideos/x/a.mp4,one,train\nimages/b.jpg,two,train\nvideos/b.jpg,three,train\n"
    import_table(annotated("t.csv", table), source(media("videos/x/a.mp4", "images/b.jpg", "videos/b.jpg")))
    assert [row["media"] for row in rows("captions.jsonl")] == ["videos/x/a.mp4", "images/b.jpg", "images/videos/b.jpg"]


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "N/A", "<NA>"])
def test_the_mark_of_an_empty_cell_is_no_caption(
    annotated: Callable[..., Path], media: Callable[..., Path], source: Callable[..., Any], word: str
) -> None:
    table = f"media,text,split\na.mp4,{word},train\na.mp4,nan bread is baked,train\na.mp4,,train\n"
    summary = import_table(annotated("t.csv", table), source(media("a.mp4")))
    assert summary.texts("caption") == 1
    assert summary.dropped == {
        "an empty caption": 1,
        f"{word!r} as caption: an empty cell of the table that it was written from": 1,
    }


def test_none_may_be_an_answer(
    annotated: Callable[..., Path], media: Callable[..., Path], source: Callable[..., Any]
) -> None:
    table = "media,question,answer,split\na.mp4,how many?,none,train\na.mp4,nan,two,train\n"
    summary = import_table(annotated("t.csv", table), source(media("a.mp4")), "open_qa")
    assert (summary.texts("open_qa"), summary.dropped.total()) == (1, 1)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_questions_with_ids(
    tmp_path: Path,
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
    suffix: str,
) -> None:
    lines = [
        {"id": 7, "media": "a.mp4", "question": "wie viele?", "answer": 3, "type": "zahl", "split": "train"},
        {"id": 7, "media": "a.mp4", "question": "again?", "answer": 3, "type": None, "split": "train"},
        {"id": 8, "media": "a.mp4", "question": "größe?", "answer": 4, "type": None, "split": "train"},
    ]
    path = tmp_path / f"qa{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(lines), path)
    else:
        annotated(path.name, lines, folder=".")
    columns = read_map(["answer_type=type"])
    summary = import_table(path, source(media("a.mp4")), "open_qa", columns)
    common = {"media": "videos/a.mp4", "split": "train"}
    assert rows("open_qa.jsonl") == [
        {"id": "7", "question": "wie viele?", "answer": "3", "answer_type": "zahl", **common},
        {"id": "8", "question": "größe?", "answer": "4", **common},
    ]
    assert dict(summary.dropped) == {"an id that was used before": 1}


@pytest.mark.parametrize(
    ("header", "row", "option"),
    [
        ("media,question,a,b,answer,split", "a.mp4,which?,red,blue,1,test", "options=a+b"),
        ("media,question,a,b,answer,split", "a.mp4,which?,red,blue,blue,test", "options=a+b"),
        ("media,question,list,answer,split", 'a.mp4,which?,"[""red"", ""blue""]",1,test', "options=list"),
    ],
)
def test_choices(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
    header: str,
    row: str,
    option: str,
) -> None:
    path = annotated("mc.csv", f"{header}\n{row}\n")
    import_table(path, source(media("a.mp4")), "multiple_choice", read_map([option]))
    (choice,) = rows("multiple_choice.jsonl")
    assert (choice["options"], choice["answer"]) == (["red", "blue"], 1)


def test_splits_by_hash_stay_when_rows_are_added(
    tmp_path: Path, annotated: Callable[..., Path], named: Callable[..., Path], source: Callable[..., Any]
) -> None:
    folder = named((f"{number}" for number in range(300)), ".mp4")
    fractions = read_fractions(["val=0.2", "test=0.1"], "--split-fractions")
    found = []
    for count in (200, 300):
        lines = [{"media": f"{number}.mp4", "text": "a"} for number in range(count)]
        into = source(folder)
        data = tmp_path / f"data{count}"
        import_table(annotated("t.jsonl", lines), type(into)(folder, data), split_fractions=fractions)
        texts = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
        found.append({row["media"]: row["split"] for row in texts})
    assert found[0].items() <= found[1].items()
    counts = [list(found[1].values()).count(split) for split in ("train", "val", "test")]
    assert sum(counts) == 300
    assert 180 < counts[0] < 240
    assert 35 < counts[1] < 85


@pytest.mark.parametrize(
    ("content", "given", "said"),
    [
        (CSV, "media=clip", "no column 'text' for text; It has clip, caption, fold; name the right one with"),
        (CSV, "text=captoin,media=clip", "no column 'captoin' for text; did you mean caption?"),
        (
            CSV,
            "txt=caption",
            "--map txt=caption: did you mean text? Keys of caption: media, text, start_s, end_s, id, split.",
        ),
        (CSV, "text=caption,media=clip", "no column 'split'; name it with --map split=COLUMN, or draw the splits"),
        (CSV.replace("dev", "extra").replace(",,", ",x,"), "text=caption,media=clip,split=fold", 'fold is "extra"'),
        ("a,a\n1,2\n", "text=a", "column 'a' is twice in the header"),
        ("media,text,split\n", "", "holds no row"),
        ("", "", "an empty file"),
        ("media,text,split\na.mp4,b\n", "", "line 2: 2 columns, but 3 in the header (media, text, split); quote"),
        (b"media,text,split\na.mp4,\xff,train\n", "", "not UTF-8 (byte 0xff)"),
    ],
)
def test_wrong_tables(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
    content: str | bytes,
    given: str,
    said: str,
) -> None:
    path = annotated("clips.csv", content)
    columns = read_map([given] if given else [])
    assert said in failing(import_table, path, source(media("b.mp4")), "caption", columns)


def test_wrong_choices(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    line = {"media": "a.mp4", "question": "which?", "options": ["red", "blue"], "answer": 0, "split": "test"}

    def said(**values: Any) -> str:
        path = annotated("mc.jsonl", [line, {**line, **values}])
        return failing(import_table, path, source(media("a.mp4")), "multiple_choice")

    expected = "expected the position of the right option, 0 to 1, or its text"
    assert f'line 2: column answer is "2"; {expected}' in said(answer=2)
    assert 'line 2: column answer is "green"' in said(answer="green")
    assert 'line 2: column options is "red"; expected a list of options' in said(options="red")


@pytest.mark.parametrize("given", ["text", "text=", "=caption", "text=a,text=b"])
def test_wrong_maps(given: str) -> None:
    with pytest.raises(ClipBertError, match="expected KEY=COLUMN, each key once"):
        read_map([given])


@pytest.mark.parametrize("given", [["train=0.5"], ["val=2"], ["val"], ["val=0.1", "val=0.1"], ["val=x"]])
def test_wrong_fractions(given: list[str]) -> None:
    with pytest.raises(ClipBertError, match=r"--hold-out .*: expected SPLIT=FRACTION with SPLIT one of val, test"):
        read_fractions(given, "--hold-out")
    with pytest.raises(ClipBertError, match=r"the fractions add up to 1\.4"):
        read_fractions(["val=0.7", "test=0.7"], "--hold-out")


def test_other_files(
    tmp_path: Path, media: Callable[..., Path], source: Callable[..., Any], failing: Callable[..., str]
) -> None:
    text = failing(import_table, tmp_path / "clips.xlsx", source(media()))
    assert "clips.xlsx: expected a table, one of .csv" in text
    assert "gone.csv: no such file" in failing(import_table, tmp_path / "gone.csv", source(media("a.mp4")))
    assert "gone.parquet: no such file" in failing(import_table, tmp_path / "gone.parquet", source(media("a.mp4")))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    assert "cannot be read as parquet" in failing(import_table, tmp_path / "bad.parquet", source(media("a.mp4")))


def test_segments(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    cells = ["one,train,2.5,7", "two,train,,4", "three,train,9,", "all,train,,"]
    table = "".join(f"a.mp4,{row}\n" for row in cells)
    path = annotated("clips.csv", f"media,text,split,start_s,to\n{table}")
    import_table(path, source(media("a.mp4")), "caption", read_map(["end_s=to"]))
    found = rows("captions.jsonl")
    assert [(row.get("start_s"), row.get("end_s")) for row in found] == [
        (2.5, 7.0),
        (0.0, 4.0),
        (9.0, None),
        (None, None),
    ]
    assert list(found[3]) == ["id", "text", "media", "split"]


@pytest.mark.parametrize("kind", ["open_qa", "multiple_choice"])
def test_segments_of_questions(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
    kind: Any,
) -> None:
    row = {"media": "a.mp4", "question": "what?", "split": "val", "answer": "red", "start_s": 1, "end_s": 3}
    path = annotated("asked.jsonl", [row | ({"options": ["red", "blue"]} if kind == "multiple_choice" else {})])
    import_table(path, source(media("a.mp4")), kind)
    (found,) = rows(f"{kind}.jsonl")
    assert (found["start_s"], found["end_s"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("soon", "", 'line 2: start_s is "soon", not a time in seconds'),
        ("-1", "", 'line 2: start_s is "-1", not a time in seconds'),
        ("", "nan", 'line 2: end_s is "nan", not a time in seconds'),
        ("5", "5", "line 2: start_s is 5 and end_s is 5; expected a segment that ends after it starts"),
    ],
)
def test_wrong_segments(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
    start: str,
    end: str,
    said: str,
) -> None:
    path = annotated("clips.csv", f"media,text,split,start_s,end_s\na.mp4,one,train,{start},{end}\n")
    assert said in failing(import_table, path, source(media("a.mp4")))
