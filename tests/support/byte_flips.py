"""Single changed bits in a file, and what its reader makes of them."""

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from clipbert.errors import ClipBertError


def unnoticed_flips(path: Path, read: Callable[[], object], count: int = 200, seed: int = 0) -> list[int]:
    """Flip one random bit of the file at a time, `count` times, and read; the offsets that `read` did not refuse.

    `read` refuses by a ClipBertError that names the file; any other exception is a failure of the test.
    """
    whole, draw = path.read_bytes(), random.Random(seed)

    def flips() -> Iterator[tuple[int, bytes]]:
        for _ in range(count if whole else 0):
            offset = draw.randrange(len(whole))
            flipped = bytearray(whole)
            flipped[offset] ^= 1 << draw.randrange(8)
            yield offset, bytes(flipped)

    return _unnoticed(path, read, flips())


def unnoticed_truncations(path: Path, read: Callable[[], object], count: int = 20) -> list[int]:
    """Cut the file at `count` places, the empty file among them, and read; the sizes that `read` did not refuse."""
    whole = path.read_bytes()
    sizes = sorted({len(whole) * place // count for place in range(count)} | {len(whole) - 1})
    return _unnoticed(path, read, ((size, whole[:size]) for size in sizes))


def _unnoticed(path: Path, read: Callable[[], object], damaged: Iterable[tuple[int, bytes]]) -> list[int]:
    """Read the file with each damaged content, and restore it; the places of those that `read` did not refuse."""
    whole = path.read_bytes()
    passed = []
    try:
        for place, content in damaged:
            path.write_bytes(content)
            try:
                read()
            except ClipBertError as error:
                assert path.name in str(error)  # noqa: PT017
            else:
                passed.append(place)
    finally:
        path.write_bytes(whole)
    return passed
