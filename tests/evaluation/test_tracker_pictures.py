"""The pictures for the experiment tracker: which predictions they show, and their texts."""

from pathlib import Path

import pandas as pd
from PIL import Image
from task_evaluations import MEDIA, captioning, open_qa, retrieval

from clipbert.evaluation.pictures import STRIP_HEIGHT
from clipbert.evaluation.tracker_pictures import sample_rows, strip, write_pictures
from clipbert.frame_cache import FrameCache
from clipbert.sampling.segments import Segment


def test_samples_are_spread_over_the_test_set_right_and_wrong() -> None:
    rows = sample_rows("retrieval", retrieval().items)
    assert [row["item_id"] for row in rows["Right"]] == ["c0", "c1"]
    assert [row["item_id"] for row in rows["Wrong"]] == ["c2", "c3"]


def test_a_caption_is_not_right_or_wrong_but_in_the_better_half_or_not() -> None:
    items = captioning().items.iloc[[0, 0, 0, 0]].assign(score=[0.01, 0.02, 0.3, 0.04], item_id=["a", "b", "c", "d"])
    rows = sample_rows("captioning", items)
    assert [row["item_id"] for row in rows["Upper half by CIDEr"]] == ["c", "d"]
    assert [row["item_id"] for row in rows["Lower half by CIDEr"]] == ["a", "b"]


def test_a_picture_is_shown_once_and_a_video_in_four_frames(tiny_project: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    videos = (
        pd.read_parquet(tiny_project / "artifacts" / "manifest" / "videos.parquet").groupby("kind")["media"].first()
    )
    assert strip(cache, videos["image"]).width == 96
    assert strip(cache, videos["video"]).width == 4 * 98 - 2


def test_pictures_for_the_tracker(tiny_project: Path, tmp_path: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    paths = write_pictures("open_qa", open_qa().items, cache, tmp_path)
    assert [path.name for path in paths[::2]] == ["right_1.jpg", "right_2.jpg", "wrong_1.jpg"]
    assert all(path.read_bytes()[:2] == b"\xff\xd8" for path in paths[::2])


def test_words_that_no_bundled_font_can_draw_are_in_the_text_file(tiny_project: Path, tmp_path: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    heights = {}
    for answer in ("\u7ea2\u8272", "\u0643\u0644\u0628", "L\u00f6we"):
        items = open_qa().items.assign(predicted=answer)
        picture, words = write_pictures("open_qa", items, cache, tmp_path)[:2]
        assert words.read_text(encoding="utf-8").splitlines()[-1] == f"predicted: {answer} (90 %)"
        heights[answer] = Image.open(picture).height
    assert heights["\u7ea2\u8272"] == heights["\u0643\u0644\u0628"] == STRIP_HEIGHT + 8  # the frames alone
    assert heights["L\u00f6we"] == STRIP_HEIGHT + 8 + 3 * 16


def test_a_segment_is_shown_by_its_own_frames(tiny_project: Path, tmp_path: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    times = cache[MEDIA].times
    middle = float(times[2])
    items = retrieval().items.assign(start_s=middle, end_s=float("nan"))
    paths = write_pictures("retrieval", items, cache, tmp_path / "pictures")
    texts = [path.read_text() for path in paths if path.suffix == ".txt"]
    assert all(text.startswith(f"{MEDIA}, {middle:g} to the end\n") for text in texts)
    assert texts[0].splitlines()[-1] == "its segment ranks 1 of 4"
    longest = strip(cache, MEDIA, 4, Segment(middle))
    assert longest.width == strip(cache, MEDIA, min(4, len(times) - 2)).width
