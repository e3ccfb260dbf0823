"""A changed byte or a cut anywhere in the index of the frame cache is refused, or changes nothing that is read."""

import random
from pathlib import Path

from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache


def read(folder: Path) -> list[tuple[str, bytes, bytes]]:
    cache = FrameCache(folder)
    return [(media, cache[media].times.tobytes(), cache[media].images.tobytes()) for media in cache.media]


def test_every_flip_and_cut_is_refused_or_harmless(cache_dir: Path) -> None:
    index, draw = cache_dir / "index.arrow", random.Random(0)
    whole, right, refused = index.read_bytes(), read(cache_dir), 0
    for trial in range(110):
        data = bytearray(whole)
        offset = draw.randrange(len(data))
        if trial < 100:
            data[offset] ^= 1 << draw.randrange(8)
        index.write_bytes(data if trial < 100 else data[:offset])
        try:
            found = read(cache_dir)
        except ClipBertError:
            refused += 1
        else:
            assert found == right, (trial, offset)
    assert refused > 50
