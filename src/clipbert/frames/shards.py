"""Writing the shards of the frame cache: tar files, laid out as WebDataset expects and the same bytes every time."""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from clipbert.frames.decode import decode_file
from clipbert.frames.index import Entry

BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = bytes(2 * BLOCK)
NAME_CHARS = 60
SUBSAMPLING_444 = 0


@dataclass(frozen=True)
class Job:
    """One file to decode, with everything a worker process needs to know."""

    path: str
    media: str
    sha256: str
    decoder: str
    decoding: dict[str, Any]


@dataclass(frozen=True)
class Packed:
    """A file's frames as the bytes that go into a shard; `entry` counts offsets from the start of `data`."""

    entry: Entry
    data: bytes


def shard_name(number: int) -> str:
    """shard-000000.tar, ..."""
    return f"shard-{number:06d}.tar"


def pack(job: Job) -> Packed:
    """Decode one file and encode its frames: KEY.000.jpg, KEY.001.jpg, ..., KEY.json. Runs in a worker process.

    Raises:
        ClipBertError: the file is missing or cannot be decoded.
    """
    decoding = job.decoding
    frames = decode_file(job.path, job.decoder, decoding["fps"], decoding["size"], decoding["max_frames"])
    pictures = [_jpeg(image, decoding["quality"]) for image in frames.images]
    about = {
        "media": job.media,
        "sha256": job.sha256,
        "decoder": job.decoder,
        "decoding": decoding,
        "height": frames.images.shape[1],
        "width": frames.images.shape[2],
        "times": frames.times.tolist(),
        "crc32": [zlib.crc32(picture) for picture in pictures],
    }
    key = _key(job.media)
    members = [_member(f"{key}.{number:03d}.jpg", picture) for number, picture in enumerate(pictures)]
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


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=SUBSAMPLING_444)
    return buffer.getvalue()


def _key(media: str) -> str:
    """A name without dots, readable, within tar's 100 characters and another one for every media."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", media)[-NAME_CHARS:]
    return f"{readable}-{hashlib.sha256(media.encode()).hexdigest()[:16]}"


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data.ljust(_padded(len(data)), b"\0")


class ShardWriter:
    """Entries in, shards out: a shard is closed by the entry that brings it to `shard_bytes`, so the same entries in
    the same order always give the same files."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.entries: list[Entry] = []
        self._file: IO[bytes] | None = None
        self._number = sum(1 for _ in folder.glob("shard-*.tar"))

    def add(self, packed: Packed) -> None:
        """Append an entry."""
        if self._file is None:
            self._file = (self.folder / shard_name(self._number)).open("xb")
        offset = self._file.tell()
        self._file.write(packed.data)
        self._file.flush()
        self.entries.append(moved(packed.entry, shard_name(self._number), offset))
        if self._file.tell() >= self.shard_bytes:
            self.close()

    def can_take_whole(self, run: list[Entry], last: bool) -> bool:
        """Whether adding these entries now would make exactly one shard of them; `last`: nothing comes after them."""
        size = sum(entry.length for entry in run)
        full = size >= self.shard_bytes
        return self._file is None and size - run[-1].length < self.shard_bytes and (full or last)

    def take_whole(self, shard: Path, run: list[Entry]) -> None:
        """Make an existing shard the next one; without copying where the file system can."""
        name = shard_name(self._number)
        try:
            os.link(shard, self.folder / name)
        except OSError:
            shutil.copyfile(shard, self.folder / name)
        self._number += 1
        self.entries += [replace(entry, shard=name) for entry in run]

    def close(self) -> None:
        """End the shard that is being written."""
        if self._file is not None:
            self._file.write(END_OF_TAR)
            self._file.close()
            self._file = None
            self._number += 1


def moved(entry: Entry, shard: str, offset: int) -> Entry:
    """The same entry at another place."""
    offsets = entry.frame_offsets + (offset - entry.offset)
    return replace(entry, shard=shard, offset=offset, frame_offsets=offsets)


def read_packed(shard: Path, entry: Entry) -> Packed | None:
    """An entry's bytes, or None when they are not what was written."""
    try:
        with shard.open("rb") as file:
            data = os.pread(file.fileno(), entry.length, entry.offset)
    except FileNotFoundError:
        return None
    return Packed(entry, data) if len(data) == entry.length and zlib.crc32(data) == entry.crc32 else None


def is_exactly(shard: Path, run: list[Entry]) -> bool:
    """Whether a shard file consists of these entries, in this order, and nothing else."""
    starts = [entry.offset for entry in run]
    ends = [entry.offset + entry.length for entry in run]
    try:
        with shard.open("rb") as file:
            rest = os.pread(file.fileno(), len(END_OF_TAR) + 1, ends[-1])
    except FileNotFoundError:
        return False
    return starts == [0, *ends[:-1]] and rest == END_OF_TAR


def recover_entries(shard: Path, decoding: dict[str, Any]) -> Iterator[Entry]:
    """The whole entries of a shard without an index, up to where its writing was cut off; those made with other
    settings are left out."""
    with shard.open("rb") as file:
        start, run, pictures = 0, b"", list[bytes]()
        while (member := _next_member(file)) is not None:
            name, content, raw = member
            run += raw
            if name.endswith(".jpg"):
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
    """A tar member's name, content, and bytes with header and padding; None at the end of what is whole."""
    header = file.read(BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except tarfile.HeaderError:
        return None
    data = file.read(_padded(info.size))
    return (info.name, data[: info.size], header + data) if len(data) == _padded(info.size) else None
