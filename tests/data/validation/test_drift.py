"""Drift: which manifest is compared with which, what is measured, and damaged baselines."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipbert.config.data import DriftParams
from clipbert.data.validation.drift import Snapshot, choose, ks, measure, read
from clipbert.errors import ClipBertError


def snapshot(digest: str, media: int = 4, first: int = 0) -> Snapshot:
    numbers = range(first, first + media)
    frame = pd.DataFrame(
        {
            "media": [f"{n}.mp4" for n in numbers],
            "sha256": [str(n) for n in numbers],
            "duration_s": [2.0 + n for n in numbers],
        }
    )
    return Snapshot(digest, frame, np.array([[5, 3], [8, 1]]))


def test_a_snapshot_comes_back_as_it_was_and_has_the_same_bytes(tmp_path: Path) -> None:
    snapshot("a").write(tmp_path / "one")
    snapshot("a").write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = read(tmp_path / "one")
    assert back is not None
    assert back.digest == "a"
    assert back.media.equals(snapshot("a").media)
    assert back.text_chars.tolist() == [[5, 3], [8, 1]]
    assert read(tmp_path / "none") is None


def test_a_manifest_is_never_compared_with_itself(tmp_path: Path) -> None:
    def run(digest: str) -> str | None:
        baseline, kept = choose(tmp_path, snapshot(digest))
        for name, one in zip(("last.parquet", "before.parquet"), kept, strict=False):
            one.write(tmp_path / name)
        return None if baseline is None else baseline.digest

    assert [run(digest) for digest in "aabbcc"] == [None, None, "a", "a", "b", "b"]


def test_what_came_left_and_changed() -> None:
    today = snapshot("b", first=1)
    today.media.loc[0, "sha256"] = "other"
    rows = measure(snapshot("a"), today, DriftParams()).set_index("measure")
    assert rows["value"].to_dict() == {
        "new": 0.25,
        "removed": 0.25,
        "changed": pytest.approx(1 / 3, abs=1e-6),
        "durations": 0.25,
        "text lengths": 0.0,
    }
    assert rows.loc["removed", "meaning"] == "1 of 4 media are gone"
    assert rows.loc["new", "limit"] == 0.5


def test_the_kolmogorov_smirnov_statistic() -> None:
    one, two = np.array([[1, 2], [2, 2]]), np.array([[3, 5]])
    assert ks(one, one) == 0
    assert ks(one, two) == 1
    assert ks(one, np.array([[2, 1]])) == 0.5
    assert ks(one, np.empty((0, 2))) == 0


def test_a_damaged_baseline_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "last.parquet").write_bytes(b"nothing")
    with pytest.raises(ClipBertError, match=r"last.parquet: not a baseline .* Delete it and validate again"):
        choose(tmp_path, snapshot("a"))
