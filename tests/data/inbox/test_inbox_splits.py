"""Splits of new media: that of other texts, that of near-duplicates, else by a hash; leaks are refused."""

from pathlib import Path

import pytest
from arriving import ArrivingData
from numbered_videos import write_video

from clipbert.data.importers.splits import hashed_split

pytestmark = pytest.mark.slow


def pictures(seed: int, count: int = 16) -> list:
    """Frames (48, 64, 3) of blocks that differ with the seed and move."""
    import numpy as np

    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    whole = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    return [np.roll(whole, 2 * number, axis=1) for number in range(count)]


def test_splits_of_new_media(tmp_path: Path) -> None:
    arriving = ArrivingData(tmp_path)
    arriving.inbox.rename(tmp_path / "data")
    arriving.inbox = tmp_path / "data"
    for number, split in enumerate(("train", "val", "test")):
        write_video(tmp_path / f"data/videos/{number}.mp4", pictures(number))
        arriving.row(id=str(number), media=f"videos/{number}.mp4", text=f"text {number}", split=split)
    arriving.inbox = tmp_path / "inbox"
    arriving.inbox.mkdir()
    # copies of a test video (and of each other), encoded again: no split, the same split, another split
    for name, split in (("copy", None), ("same", "test"), ("leak", "train")):
        codec = {"codec": "mpeg4"} if name == "copy" else {"gop": 3 if name == "same" else 5}
        write_video(arriving.inbox / f"videos/{name}.mp4", pictures(2), **codec)
        arriving.row(id=name, media=f"videos/{name}.mp4", split=split)
    # two copies without a split, of nothing in data/, and one that has a split by its other row
    for name, seed in (("twin-a", 50), ("twin-b", 50), ("told", 60)):
        write_video(arriving.inbox / f"videos/{name}.mp4", pictures(seed), gop=3 if name == "twin-b" else 12)
        arriving.row(id=name, media=f"videos/{name}.mp4")
    arriving.row(id="told again", media="videos/told.mp4", split="val")
    arriving.row(id="old", media="videos/1.mp4")
    result = arriving.collect(val=0.4, test=0.4)
    splits = {row["id"]: row["split"] for row in arriving.captions()[3:]}
    twins = hashed_split("inbox", "videos/twin-a.mp4", {"test": 0.4, "val": 0.4})
    assert splits == {
        "copy": "test",
        "same": "test",
        "twin-a": twins,
        "twin-b": twins,
        "told": "val",
        "told again": "val",
        "old": "val",
    }
    (media, row) = arriving.reasons()
    assert (media["file"], media["code"]) == ("videos/leak.mp4", "near_duplicates")
    assert media["reason"].startswith("a near-duplicate of videos/")
    assert " in test (distance " in media["reason"]
    assert (row["file"], row["line"], row["code"]) == ("captions.jsonl", 3, "media")
    assert result.plan is not None
    assert result.plan["assigned"]["videos/twin-a.mp4"] == f"{twins}, by the hash of its name"
    assert result.plan["assigned"]["videos/copy.mp4"].startswith("test, as its near-duplicate videos/")
