"""Which videos are indexed under which name, their metadata, and how a video is cut into clips."""

from pathlib import Path

import numpy as np
import pytest

from clipbert.errors import ClipBertError
from clipbert.sampling.clips import candidate_times, uniform_clips
from clipbert.search.build import resolved
from clipbert.search.decode import cut, shown_frames
from clipbert.search.segment import matches
from clipbert.search.sources import VideoSource, from_manifest, from_paths, typed, with_metadata
from clipbert.search.writer import stored_path


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_names_are_paths_below_the_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "sub/a.webm", "picture.jpg", "notes.txt", ".hidden.mp4"):
        write(tmp_path / "media" / name)
    other = write(tmp_path / "one.mkv")
    found = from_paths([tmp_path / "media", other])
    assert [source.video_id for source in found] == ["b.mp4", "one.mkv", "picture.jpg", "sub/a.webm"]
    assert [source.decoded_by for source in found] == ["pyav", "pyav", "pil", "pyav"]
    assert found[1].path == other
    assert len(from_paths([other, other])) == 1


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match="gone: not found: expected a folder of videos"):
        from_paths([tmp_path / "gone"])
    write(tmp_path / "empty" / "notes.txt")
    with pytest.raises(ClipBertError, match="has no videos or images: expected files with one of the suffixes"):
        from_paths([tmp_path / "empty"])
    files = [write(tmp_path / side / "a.mp4") for side in ("left", "right")]
    with pytest.raises(ClipBertError, match=r"its name in the index, a\.mp4, is also that of"):
        from_paths(files)
    with pytest.raises(ClipBertError, match="clipbert ingest"):
        from_manifest(tmp_path / "manifest", tmp_path)


def test_metadata_of_a_table(tmp_path: Path) -> None:
    sources = [VideoSource(name, tmp_path / name, {"split": "test"}) for name in ("a.mp4", "b.mp4")]
    table = tmp_path / "table.csv"
    table.write_text("\ufeffvideo,year,place,note\na.mp4,2001,Rome,\nb.mp4,2002.5,,x y\n", encoding="utf-8")
    found = with_metadata(sources, table)
    assert found[0].metadata == {"split": "test", "year": 2001, "place": "Rome"}
    assert found[1].metadata == {"split": "test", "year": 2002.5, "note": "x y"}
    assert [type(typed(text)) for text in ("1", "1.5", "1e3", "one")] == [int, float, float, str]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,year\na.mp4,1\n", "its columns are name, year: expected a column video"),
        ("", "its columns are none"),
        ("video,year\nc.mp4,1\n", r"line 2: c\.mp4 is none of the 1 videos: expected a name such as a\.mp4"),
        ("video,year\na.mp4,1\na.mp4,2\n", r"line 3: a\.mp4 is in the table twice"),
        ("video,year\na.mp4,1,2\n", "line 2 has another number of columns"),
        ("video,year\na.mp4\n", "line 2 has another number of columns"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(ClipBertError, match=message):
        with_metadata([VideoSource("a.mp4", tmp_path / "a.mp4")], table)


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match=r"table\.csv: cannot be read"):
        with_metadata([], tmp_path / "table.csv")
    (tmp_path / "table.csv").write_bytes(b"video,\xff\xfe\n")
    with pytest.raises(ClipBertError, match="Expected a CSV in UTF-8"):
        with_metadata([], tmp_path / "table.csv")


@pytest.mark.parametrize(("duration", "clips"), [(0.1, 1), (9.9, 1), (10.0, 1), (10.1, 2), (20.0, 2), (61.0, 7)])
def test_a_video_is_cut_into_equal_parts(duration: float, clips: int) -> None:
    times = candidate_times(duration, 2.0, 2048)
    parts = cut(duration, times, 10.0)
    assert len(parts) == clips
    assert parts[0].start_s == 0.0
    assert parts[-1].end_s == duration
    assert [part.end_s for part in parts[:-1]] == [part.start_s for part in parts[1:]]
    assert [frame for part in parts for frame in part.frames] == list(range(len(times)))
    for part in parts:
        assert part.end_s - part.start_s == pytest.approx(duration / clips)


def test_parts_without_a_frame_join_a_neighbor() -> None:
    parts = cut(40.0, np.array([1.0, 35.0, 36.0]), 10.0)
    assert [(part.start_s, part.end_s, list(part.frames)) for part in parts] == [
        (0.0, 10.0, [0]),
        (10.0, 40.0, [1, 2]),
    ]
    parts = cut(40.0, np.array([1.0, 2.0]), 10.0)
    assert [(part.start_s, part.end_s, list(part.frames)) for part in parts] == [(0.0, 40.0, [0, 1])]


@pytest.mark.parametrize("frames", [1, 3, 8, 9, 40])
@pytest.mark.parametrize(("clips", "each"), [(1, 1), (2, 4), (4, 2), (8, 1)])
def test_the_shown_frames_have_the_clips_of_all_frames(frames: int, clips: int, each: int) -> None:
    part = range(5, 5 + frames)
    shown = shown_frames(part, clips, each)
    assert len(shown) <= max(frames, clips * each)
    again = shown[uniform_clips(len(shown), clips, each)]
    assert np.array_equal(again, np.asarray(part)[uniform_clips(frames, clips, each)])


def test_paths_inside_a_project_move_with_it(tmp_path: Path) -> None:
    index, video = tmp_path / "artifacts" / "search", tmp_path / "data" / "videos" / "a.mp4"
    stored = stored_path(index, video)
    assert stored == "../../data/videos/a.mp4"
    assert resolved(tmp_path / "moved" / "artifacts" / "search", stored) == tmp_path / "moved/data/videos/a.mp4"
    outside = tmp_path.parent / "b.mp4"
    assert resolved(index, stored_path(index, outside)) == outside
    assert stored_path(tmp_path / "index", video) == str(video)


def test_values_match_by_their_type() -> None:
    import pyarrow as pa

    assert matches(pa.array([1, 2, None]), ["1.0", "x"]).tolist() == [True, False, False]
    assert matches(pa.array([0.5, 2.0]), ["2"]).tolist() == [False, True]
    assert matches(pa.array([True, False, None]), ["True"]).tolist() == [True, False, False]
    assert matches(pa.array(["a", None, "b"]), ["a", "b"]).tolist() == [True, False, True]
