"""Single changed bits in a file, and what its reader makes of them."""

import random
from collections.abc import Callable
from pathlib import Path

from clipbert.errors import ClipBertError


def unnoticed_flips(path: Path, read: Callable[[], object], count: int = 200, seed: int = 0) -> list[int]:
    """Flip one random bit of the file at a time, `count` times, and read; the offsets that `read` did not refuse.

    `read` refuses by a ClipBertError that names the file; any other exception is a failure of the test.
    """
    whole, draw = path.read_bytes(), random.Random(seed)
    passed = []
    try:
        for _ in range(count if whole else 0):
            offset = draw.randrange(len(whole))
            flipped = bytearray(whole)
            flipped[offset] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            try:
                read()
            except ClipBertError as error:
                assert path.name in str(error)  # noqa: PT017
            else:
                passed.append(offset)
    finally:
        path.write_bytes(whole)
    return passed


def unnoticed_truncations(path: Path, read: Callable[[], object], count: int = 20) -> list[int]:
    """Cut the file at `count` places, the empty file among them, and read; the sizes that `read` did not refuse."""
    whole = path.read_bytes()
    passed = []
    try:
        for size in sorted({len(whole) * place // count for place in range(count)} | {len(whole) - 1}):
            path.write_bytes(whole[:size])
            try:
                read()
            except ClipBertError as error:
                assert path.name in str(error)  # noqa: PT017
            else:
                passed.append(size)
    finally:
        path.write_bytes(whole)
    return passed
