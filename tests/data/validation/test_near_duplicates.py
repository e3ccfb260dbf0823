"""Look-alikes across splits: the index finds what comparing every pair finds, and spares what differs or is blank."""

import numpy as np
import pandas as pd
import pytest

from clipbert.data.perceptual_hash import distance
from clipbert.data.validation.near_duplicates import near_duplicates


def flipped(hashes: list[int], bits: int, seed: int) -> list[int]:
    """Every hash with the given number of bits changed."""
    rng = np.random.default_rng(seed)
    found = []
    for value in hashes:
        mask = sum(1 << int(bit) for bit in rng.choice(63, bits, replace=False))
        found.append(value ^ mask)
    return found


def videos(count: int, pictures: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    looks = rng.integers(-(2**63), 2**63 - 1, (count, pictures))
    return pd.DataFrame(
        {
            "media": [f"videos/{number}.mp4" for number in range(count)],
            "split": pd.Series([("train", "train", "val", "test", None)[number % 5] for number in range(count)]),
            "looks": pd.Series([[int(value) for value in row] for row in looks], dtype=object),
            "brightness": 100.0,
            "motion": 5.0,
            "duration_s": 10.0,
        }
    )


def test_the_index_finds_what_comparing_every_pair_finds() -> None:
    frame = videos(200)
    for row in range(0, 200, 5):
        frame.at[row + 3, "looks"] = flipped(frame.at[row, "looks"], row % 9, row)
        frame.at[row + 2, "looks"] = flipped(frame.at[row + 1, "looks"], row % 9, row)
    others = {"val": ["train"], "test": ["train", "val"]}
    wanted = {
        (one.media, two.media): distance(one.looks, two.looks)
        for one in frame[frame["split"].isin(others)].itertuples()
        for two in frame[frame["split"].isin(others.get(one.split, []))].itertuples()
    }
    near = {pair: apart for pair, apart in wanted.items() if apart <= 7}
    found = near_duplicates(frame, 7)
    assert len(near) > 50
    assert {(row.media, row.near_media): row.distance for row in found.itertuples()} == pytest.approx(near)
    assert list(found["distance"]) == sorted(found["distance"])


def test_a_pair_of_one_split_or_without_one_is_none() -> None:
    frame = videos(10)
    frame.at[1, "looks"] = frame.at[0, "looks"]
    frame.at[4, "looks"] = frame.at[3, "looks"]
    assert near_duplicates(frame, 6).empty


@pytest.mark.parametrize(("column", "near", "far"), [("brightness", 120.0, 130.0), ("motion", 7.5, 12.0)])
def test_copies_keep_their_brightness_and_motion(column: str, near: float, far: float) -> None:
    frame = videos(4)
    frame.at[3, "looks"] = frame.at[0, "looks"]
    assert len(near_duplicates(frame, 6)) == 1
    frame.at[3, column] = near
    assert len(near_duplicates(frame, 6)) == 1
    frame.at[3, column] = far
    assert near_duplicates(frame, 6).empty


def test_a_trimmed_copy_is_one_and_another_length_is_not() -> None:
    frame = videos(4)
    frame.at[3, "looks"] = frame.at[0, "looks"][:5] + frame.at[1, "looks"][:3]
    frame.at[3, "duration_s"] = 9.0
    assert near_duplicates(frame, 6)[["near_media", "distance"]].values.tolist() == [["videos/0.mp4", 0.0]]
    frame.at[3, "duration_s"] = 8.0
    assert near_duplicates(frame, 6).empty


def test_blank_and_unknown_looks_match_nothing() -> None:
    frame = videos(4)
    for row in range(4):
        frame.at[row, "looks"] = [0] * 8 if row != 1 else None
    assert near_duplicates(frame, 7).empty


def test_images_are_compared_by_their_one_picture() -> None:
    frame = videos(4, pictures=1)
    frame["motion"] = np.nan
    frame.at[2, "looks"] = flipped(frame.at[1, "looks"], 3, 0)
    found = near_duplicates(frame, 6)
    assert found.values.tolist() == [["videos/2.mp4", "val", "videos/1.mp4", "train", 3.0]]


def test_a_distance_the_index_would_miss_is_refused() -> None:
    with pytest.raises(ValueError, match="above 7"):
        near_duplicates(videos(4), 8)
