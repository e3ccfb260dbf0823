"""Packing of one media file into its bytes in a shard; `pack` runs in a worker process, on this or another machine."""

import contextlib
import importlib.metadata
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipbert.data.quarantine import Quarantined
from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file
from clipbert.files.leftovers import scratch_folder
from clipbert.files.remote import SourceError, fetch, is_url
from clipbert.frame_cache.job import Job
from clipbert.frame_cache.shards import Packed, lay_out
from clipbert.process_pool import KillablePool, WorkerDied, WorkerError, WorkerMemory, WorkerTimeout, time_limit
from clipbert.sampling.candidates import Frames, decode_file

SUBSAMPLING_444 = 0
LIBRARIES = ("av", "decord", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of the libraries on which the bytes of an entry depend."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def pack(job: Job, decoder: str) -> Packed:
    """Decode one file with `decoder` and encode its frames.

    Raises:
        SourceError: the file is missing, unreachable, or has other bytes than at ingest.
        ClipBertError: it cannot be decoded.
    """
    decoding = job.decoding
    with _at_hand(job) as path:
        frames = _decode(path, decoder, decoding)
    try:
        pictures = [_jpeg(image, decoding["quality"]) for image in frames.images]
    except (OSError, ValueError) as error:
        raise ClipBertError(f"{job.media}: its pictures cannot be stored as JPEG ({error})") from error
    height, width = frames.images.shape[1:3]
    return lay_out(job.media, job.sha256, job.decoder, decoding, frames.times, (height, width), pictures)


def _decode(path: str, decoder: str, decoding: dict[str, Any]) -> Frames:
    return decode_file(path, decoder, decoding["fps"], decoding["size"], decoding["max_frames"], decoding["sampling"])


@contextlib.contextmanager
def _at_hand(job: Job) -> Iterator[str]:
    """Yield the path of the file on this machine after checking its bytes; a fetched file is deleted at the end."""
    if is_url(job.path):
        with scratch_folder(Path(job.scratch) if job.scratch else None) as folder:
            path = folder / f"media{Path(job.media).suffix}"
            fetch(job.path, path)
            _check_bytes(job, path)
            yield str(path)
    else:
        path = Path(job.path)
        if not path.is_file():
            raise SourceError(missing_message([job.path]))
        _check_bytes(job, path)
        yield job.path


def _check_bytes(job: Job, path: Path) -> None:
    found = sha256_file(path)
    if found != job.sha256:
        raise SourceError(
            f"{job.path}: not the file that ingest saw (SHA-256 {found[:12]}..., the manifest has "
            f"{job.sha256[:12]}...). Run clipbert ingest, then clipbert frames."
        )


def missing_message(paths: list[str]) -> str:
    """Return the error message for files of the manifest that are missing."""
    listed = "\n".join(f"  {path}: no such file" for path in paths[:20])
    more = f"\n  and {len(paths) - 20} more" if len(paths) > 20 else ""
    return f"the manifest names files that are not there:\n{listed}{more}\nBring them back, or run: clipbert ingest"


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=SUBSAMPLING_444)
    return buffer.getvalue()


def job_limit(job: Job, timeout_s: float) -> float:
    """Return the time limit in seconds of decoding a file."""
    return time_limit(timeout_s, job.duration_s)


def try_again(pool: KillablePool, job: Job, timeout_s: float) -> Packed | Quarantined:
    """Decode a file that failed again, sequentially and in a new process.

    Raises:
        SourceError: the file cannot be fetched.
    """
    decoder = "pyav" if job.decoder == "decord" else job.decoder
    limit = job_limit(job, timeout_s)
    try:
        return pool.submit(pack, job, decoder, timeout_s=limit, fresh=True).result()
    except SourceError:
        raise
    except (WorkerError, ClipBertError) as error:
        if is_url(job.path) and isinstance(error, WorkerTimeout):
            _check_reachable(pool, job, limit)
        return Quarantined(job.media, _reason(error), str(error).replace(job.path, job.media))


def _check_reachable(pool: KillablePool, job: Job, limit: float) -> None:
    try:
        pool.submit(reach, job, timeout_s=limit, fresh=True).result()
    except WorkerError as error:
        raise SourceError(f"{job.path}: could not be fetched within {limit:g} s ({error}). Run again.") from error


def reach(job: Job) -> None:
    """Fetch the file and do nothing else.

    Raises:
        SourceError: it cannot be fetched.
    """
    with _at_hand(replace(job, decoding={})):
        pass


def _reason(error: Exception) -> str:
    if isinstance(error, WorkerTimeout):
        return "timeout"
    if isinstance(error, WorkerMemory) or (isinstance(error, WorkerDied) and "SIGKILL" in str(error)):
        return "memory"
    return "unreadable"
