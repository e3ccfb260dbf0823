"""Frames of near-duplicates for the page of a validation, decoded in processes that are killed if they hang."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas as pd

from clipbert.errors import ClipBertError
from clipbert.pages.pictures import side_by_side
from clipbert.process_pool import KillablePool, WorkerError, time_limit
from clipbert.sampling.candidates import Frames, decode_file

FRAMES, FRAMES_PER_S, HEIGHT = 3, 1000.0, 64  # a rate at which even a short video has FRAMES
WORKERS, TIMEOUT_S, MAX_WORKER_MB = 2, 20.0, 2048


def thumbnails(data: Path, videos: pd.DataFrame, media: Iterable[str]) -> dict[str, str]:
    """Return `FRAMES` frames of each media as a `data:` URL; files that cannot be decoded here are left out.

    Args:
        data: the folder with the media.
        videos: rows of the videos table.
        media: which of them, each once.
    """
    wanted = [name for name in dict.fromkeys(media) if (data / name).is_file()]
    if not wanted:
        return {}
    rows = videos.drop_duplicates("media").set_index("media")
    found = {}
    with KillablePool(min(WORKERS, len(wanted)), TIMEOUT_S, MAX_WORKER_MB) as pool:
        jobs = {name: _submit(pool, data / name, rows.loc[name].to_dict()) for name in wanted}
        for name, job in jobs.items():
            try:
                found[name] = side_by_side(list(job.result().images), HEIGHT)
            except (WorkerError, ClipBertError, MemoryError):
                continue
    return found


def _submit(pool: KillablePool, path: Path, row: Mapping[Any, Any]) -> "Future[Frames]":
    limit = time_limit(TIMEOUT_S, float(row["duration_s"]))
    return pool.submit(decode_file, str(path), row["path_taken"], FRAMES_PER_S, HEIGHT, FRAMES, timeout_s=limit)
