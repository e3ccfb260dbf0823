"""A damaged VP8 file whose pictures depend on reused memory is flagged; a sound one is not."""

import collections
import contextlib
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.mutations import _flip_tail
from benchmarks.trap_files import encode
from clipbert.data.ingest.probe import MediaInfo, probe
from clipbert.data.ingest.repeatability import UNREPEATABLE, first_difference
from clipbert.video.sequential import shown_frames

MUTATIONS = 40


@pytest.fixture(scope="module")
def vp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("vp8") / "k.webm", "libvpx")


def pictures(path: Path, held: int) -> list[np.ndarray]:
    """All pictures; the last `held` decoded ones are kept, so that their memory is not used again."""
    kept: collections.deque[object] = collections.deque(maxlen=held)
    found = []
    with contextlib.closing(shown_frames(path)) as frames:
        for shown in frames:
            found.append(shown.upright())
            kept.append(shown.frame)
    return found


def test_a_sound_file_is_equal_each_time(vp8: Path) -> None:
    assert first_difference(vp8) is None
    found = probe(str(vp8.parent), vp8.name)
    assert isinstance(found, MediaInfo)
    assert (found.codec, found.damage) == ("vp8", None)


def test_each_file_that_differs_between_decodes_is_flagged(vp8: Path, tmp_path: Path) -> None:
    whole, draw = vp8.read_bytes(), random.Random(0)
    flagged, differ = set(), set()
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}.webm"
        path.write_bytes(_flip_tail(bytearray(whole), draw))
        found = probe(str(tmp_path), path.name)
        if not isinstance(found, MediaInfo):
            continue
        if UNREPEATABLE in (found.damage or ""):
            assert (found.path_taken, found.first_bad_s is not None) == ("pyav", True)
            flagged.add(number)
        one, other = pictures(path, 0), pictures(path, 16)
        if len(one) != len(other) or any((a != b).any() for a, b in zip(one, other, strict=True)):
            differ.add(number)
    assert differ
    assert differ <= flagged
