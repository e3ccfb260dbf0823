"""Writer of the shards of the frame cache: tar files in WebDataset's layout, with deterministic bytes."""

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipbert.frame_cache.index import Entry

BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = bytes(2 * BLOCK)
NAME_CHARS = 60
SHARDS = "shard-*.tar"
PARTS = "part-*.tar"
LARGEST = 2
READ_BYTES = 2**20
EXTENSION = "extension"  # key of `decoding` with the extension of the members that hold pictures; without it: jpg


@dataclass(frozen=True)
class Packed:
    """Frames of a file as the bytes that go into a shard; offsets of `entry` are from the start of `data`."""

    entry: Entry
    data: bytes

    def renamed(self, media: str, decoding: dict[str, Any]) -> "Packed":
        """Return the same pictures as those of another media that has the same bytes."""
        entry = self.entry
        starts = entry.frame_offsets - entry.offset
        pictures = [self.data[at : at + n] for at, n in zip(starts, entry.frame_lengths, strict=True)]
        return lay_out(media, entry.sha256, entry.decoder, decoding, entry.times, (entry.height, entry.width), pictures)


def lay_out(
    media: str,
    sha256: str,
    decoder: str,
    decoding: dict[str, Any],
    times: np.ndarray,
    size: tuple[int, int],
    pictures: Sequence[bytes],
) -> Packed:
    """Return the tar members KEY.000.jpg, KEY.001.jpg, ..., KEY.json; the last one describes the pictures.

    Args:
        times: (N,) seconds of the N pictures.
        size: (height, width) of each.
    """
    about = {
        "media": media,
        "sha256": sha256,
        "decoder": decoder,
        "decoding": decoding,
        "height": size[0],
        "width": size[1],
        "times": times.tolist(),
        "crc32": [zlib.crc32(picture) for picture in pictures],
    }
    key = _key(media)
    members = [
        _member(f"{key}.{number:03d}.{decoding.get(EXTENSION, 'jpg')}", picture)
        for number, picture in enumerate(pictures)
    ]
    members.append(_member(f"{key}.json", (json.dumps(about, sort_keys=True) + "\n").encode()))
    return _packed(b"".join(members), [len(picture) for picture in pictures], about)


def _packed(data: bytes, lengths: list[int], about: dict[str, Any]) -> Packed:
    sizes = [BLOCK + _padded(length) for length in lengths]
    entry = Entry(
        media=about["media"],
        sha256=about["sha256"],
        decoder=about["decoder"],
        shard="",
        offset=0,
        length=len(data),
        crc32=zlib.crc32(data),
        height=about["height"],
        width=about["width"],
        times=np.array(about["times"], np.float64),
        frame_offsets=np.cumsum([0, *sizes[:-1]], dtype=np.int64) + BLOCK,
        frame_lengths=np.array(lengths, np.int64),
        frame_crc32s=np.array(about["crc32"], np.int64),
    )
    return Packed(entry, data)


def _digest(media: str) -> str:
    return hashlib.sha256(media.encode()).hexdigest()


def _key(media: str) -> str:
    """Return a readable name without dots, within tar's 100 characters and unique for every media."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", media)[-NAME_CHARS:]
    return f"{readable}-{_digest(media)[:16]}"


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data.ljust(_padded(len(data)), b"\0")


def ends_shard(entry: Entry, size: int, shard_bytes: int) -> bool:
    """Return whether a shard ends with this entry, which brings it to `size` bytes.

    A hash of the media decides, in proportion to the length of the entry, so that adding or removing an entry moves no
    other boundary. A shard always ends at twice `shard_bytes`.
    """
    return size >= LARGEST * shard_bytes or int(_digest(entry.media)[-16:], 16) * shard_bytes < entry.length << 64


class ShardWriter:
    """Writer of shards from entries sorted by media: the same shards for the same entries.

    Shards are called `part-000000.tar`, ... in `folder`; `renames` says which name each gets at the end: its SHA-256.
    """

    def __init__(self, folder: Path, shard_bytes: int, emit: Callable[[Entry], None]) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.emit = emit
        self.renames: dict[Path, str] = {}
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._rows: list[Entry] = []

    @property
    def between_shards(self) -> bool:
        """Return whether the next entry starts a shard."""
        return self._file is None

    def add(self, packed: Packed) -> tuple[Path, Entry]:
        """Append an entry; return where it can be read until the end of the build."""
        if self._file is None:
            self._file = (self.folder / f"part-{len(self.renames):06d}.tar").open("xb")
        path, offset = Path(self._file.name), self._file.tell()
        self._file.write(packed.data)
        self._file.flush()
        self._hash.update(packed.data)
        entry = moved(packed.entry, path.name, offset)
        self._rows.append(entry)
        if ends_shard(entry, self._file.tell(), self.shard_bytes):
            self.close()
        return path, entry

    def fits_whole(self, run: Sequence[Entry], last: bool) -> bool:
        """Return whether these entries would now make exactly one shard; `last`: nothing follows them."""
        size, ends = 0, []
        for entry in run:
            size += entry.length
            ends.append(ends_shard(entry, size, self.shard_bytes))
        return self.between_shards and not any(ends[:-1]) and (ends[-1] or last)

    def keep_whole(self, run: Sequence[Entry]) -> None:
        """Keep an existing shard unchanged as the next one."""
        for entry in run:
            self.emit(entry)

    def close(self) -> None:
        """End the shard that is being written."""
        if self._file is None:
            return
        self._file.write(END_OF_TAR)
        self._hash.update(END_OF_TAR)
        self._file.close()
        name = f"shard-{self._hash.hexdigest()}.tar"
        self.renames[Path(self._file.name)] = name
        for row in self._rows:
            self.emit(replace(row, shard=name))
        self._file, self._hash, self._rows = None, hashlib.sha256(), []


def moved(entry: Entry, shard: str, offset: int) -> Entry:
    """Return the same entry at another position."""
    offsets = entry.frame_offsets + (offset - entry.offset)
    return replace(entry, shard=shard, offset=offset, frame_offsets=offsets)


def read_packed(shard: Path, entry: Entry) -> Packed | None:
    """Return the bytes of an entry, or None if they differ from those that were written."""
    try:
        with shard.open("rb") as file:
            data = os.pread(file.fileno(), entry.length, entry.offset)
    except FileNotFoundError:
        return None
    whole = len(data) == entry.length and zlib.crc32(data) == entry.crc32
    return Packed(moved(entry, entry.shard, 0), data) if whole else None


def digest_of(shard: Path) -> str:
    """Return the SHA-256 of a shard's bytes, which its name holds if they are unchanged."""
    with shard.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named_digest(name: str) -> str:
    """Return the SHA-256 in a shard's name."""
    return name.removeprefix("shard-").removesuffix(".tar")


def recover_entries(shard: Path, decoding: dict[str, Any]) -> Iterator[Entry]:
    """Yield the complete entries of a shard without index, up to where its writing was cut off; entries made with other
    settings are skipped."""
    with shard.open("rb") as file:
        start, run, pictures = 0, b"", list[bytes]()
        while (member := _next_member(file)) is not None:
            name, content, raw = member
            run += raw
            if not name.endswith(".json"):
                pictures.append(content)
                continue
            try:
                about = json.loads(content)
            except ValueError:
                return
            whole = [zlib.crc32(picture) for picture in pictures] == about["crc32"]
            if whole and about["decoding"] == decoding:
                entry = _packed(run, [len(picture) for picture in pictures], about).entry
                yield moved(entry, shard.name, start)
            start, run, pictures = file.tell(), b"", []


def _next_member(file: IO[bytes]) -> tuple[str, bytes, bytes] | None:
    """Return a tar member's name, content, and bytes with header and padding; None after the last complete one."""
    header = file.read(BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except tarfile.HeaderError:
        return None
    data = file.read(_padded(info.size))
    return (info.name, data[: info.size], header + data) if len(data) == _padded(info.size) else None
