"""Damage as it happens, and as an attacker makes it: seeded mutations of real-encoder files."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

Mutation = Callable[[bytearray, random.Random], bytearray]


def _flip(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 5, 50, 500))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def _flip_head(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 3, 10))):
        content[chance.randrange(min(len(content), 1500))] ^= 1 << chance.randrange(8)
    return content


def _flip_tail(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 3, 10))):
        content[-1 - chance.randrange(min(len(content), 1500))] ^= 1 << chance.randrange(8)
    return content


def _cut(content: bytearray, chance: random.Random) -> bytearray:
    return content[: chance.randrange(1, len(content))]


def _behead(content: bytearray, chance: random.Random) -> bytearray:
    return content[chance.randrange(1, len(content) // 2) :]


def _remove(content: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(content) // 2)
    del content[start : start + chance.randrange(1, len(content) // 4)]
    return content


def _zero(content: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(content))
    length = min(chance.choice((16, 512, 4096)), len(content) - start)
    content[start : start + length] = bytes(length)
    return content


def _repeat(content: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(content) // 2)
    block = content[start : start + chance.randrange(1, 4096)]
    content[start:start] = block * chance.choice((1, 3))
    return content


def _extreme(content: bytearray, chance: random.Random) -> bytearray:
    """A 32-bit field of the head or the index set to what nobody expects."""
    for _ in range(chance.choice((1, 2))):
        near = chance.choice((0, max(0, len(content) - 1500)))
        place = min(near + chance.randrange(1500), len(content) - 4)
        content[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\0\0\0\1"))
    return content


def _swap(content: bytearray, chance: random.Random) -> bytearray:
    """Two boxes of an mp4 change places, or two blocks of anything else."""
    boxes = list(top_boxes(content))
    if len(boxes) > 2:
        (first, middle), (second, end) = sorted(chance.sample(boxes, 2))
    else:
        first, middle, second, end = sorted(chance.sample(range(len(content)), 4))
    parts = content[:first], content[second:end], content[middle:second], content[first:middle], content[end:]
    return bytearray().join(parts)


MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _flip_head,
    _flip_tail,
    _cut,
    _behead,
    _remove,
    _zero,
    _repeat,
    _extreme,
    _swap,
)


def top_boxes(content: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where the outermost boxes of an mp4 begin and end; nothing for a file that is none."""
    place = 0
    while place + 8 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        if size < 8 or place + size > len(content) or not content[place + 4 : place + 8].isalnum():
            return
        yield place, place + size
        place += size


def mutate(sources: list[Path], folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Write `count` damaged copies of the sources into `folder`, by each kind of mutation in turn."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        source = sources[number % len(sources)]
        change = MUTATIONS[number // len(sources) % len(MUTATIONS)]
        path = folder / f"{number:04d}_{change.__name__.strip('_')}_{source.name}"
        path.write_bytes(change(bytearray(source.read_bytes()), chance))
        yield path
