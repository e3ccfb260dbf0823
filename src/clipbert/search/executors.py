"""Where the vectors of an index are made: in this process with decoders next to it, or on the workers of a cluster."""

import functools
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.frame_cache import CorruptShardError, FrameCache
from clipbert.frame_cache.cluster import DaskExecutor
from clipbert.process_pool import KillablePool, WorkerError, time_limit
from clipbert.search.decode import DecodedVideo, cut, decode_video, shown_frames
from clipbert.search.encode import EncodedVideo, encode_videos, frames_params
from clipbert.search.index_file import Settings
from clipbert.search.sources import VideoSource

VIDEOS_PER_JOB = 16  # of a cluster
START_TIMEOUT_S = 120.0

Encoded = tuple[VideoSource, EncodedVideo | Exception]


class Executor(Protocol):
    """Interface of executors: they make the vectors of videos."""

    def imap(self, sources: Iterable[VideoSource]) -> Iterator[Encoded]:
        """Yield every video with its vectors, or why there are none, in order."""


@dataclass(frozen=True)
class DecodeJob:
    """File to decode, with everything that a decoder process needs."""

    path: str
    decoder: str
    duration_s: float
    bytes: int
    settings: Settings


def decode_job(job: DecodeJob) -> DecodedVideo:
    """Decode the clips of one file in this process.

    Raises:
        ClipBertError, OSError: it cannot be decoded.
    """
    settings = job.settings
    return decode_video(
        job.path, job.decoder, settings.frames, settings.clip_s, settings.clips, settings.frames_per_clip
    )


class LocalExecutor:
    """Executor of this machine: decoder processes work ahead of the model, and cached frames are not decoded again."""

    def __init__(
        self,
        pipeline: Any,
        settings: Settings,
        frame_cache: FrameCache | None = None,
        workers: int | None = None,
    ) -> None:
        self.pipeline, self.settings, self.workers = pipeline, settings, workers or len(os.sched_getaffinity(0))
        self._cache = frame_cache if frame_cache is not None and _fits(frame_cache, settings) else None
        self._cached: dict[str, str] = {}
        if self._cache is not None:
            table = self._cache.contents
            self._cached = dict(zip(table["media"].to_pylist(), table["sha256"].to_pylist(), strict=True))

    def imap(self, sources: Iterable[VideoSource]) -> Iterator[Encoded]:
        yield from encode_videos(self.pipeline, self._decoded(list(sources)), self.settings)

    def _decoded(self, sources: list[VideoSource]) -> Iterator[tuple[VideoSource, DecodedVideo | Exception]]:
        """Yield the videos of the frame cache, then the others, which are decoded ahead."""
        others: list[VideoSource] = []
        for source in sources:
            found = self._from_cache(source)
            if found is None:
                others.append(source)
            else:
                yield source, found
        if not others:
            return
        frames = frames_params(self.settings)
        limits = self.pipeline.frames
        with KillablePool(min(self.workers, len(others)), START_TIMEOUT_S, limits.max_worker_mb) as pool:
            jobs = (_job(source, self.settings) for source in others)
            limit = functools.partial(_limit, timeout_s=max(frames.timeout_s, limits.timeout_s))
            for source, (job, future) in zip(others, pool.imap(decode_job, jobs, limit), strict=True):
                try:
                    yield source, future.result()
                except (WorkerError, ClipBertError, OSError) as error:
                    yield source, self._again(pool, job, limit(job), error)

    @staticmethod
    def _again(pool: KillablePool, job: DecodeJob, limit: float, error: Exception) -> DecodedVideo | Exception:
        """Decode a file sequentially, in a new process, if another decoder failed."""
        if job.decoder != "decord":
            return error
        try:
            sequential = replace(job, decoder="pyav")
            found: DecodedVideo = pool.submit(decode_job, sequential, timeout_s=limit, fresh=True).result()
            return found
        except (WorkerError, ClipBertError, OSError) as second:
            return second

    def _from_cache(self, source: VideoSource) -> DecodedVideo | None:
        """Return the clips of a video from the frame cache; None if it has not all of its candidate frames."""
        settings, cache = self.settings, self._cache
        if cache is None or source.sha256 is None or self._cached.get(source.video_id) != source.sha256:
            return None
        times = cache[source.video_id].times
        image = source.decoded_by == "pil"
        if not image and source.duration_s * settings.frames["fps"] - 0.5 > cache.settings["max_frames"]:
            return None
        parts = [range(1)] if image else []
        spans = [(0.0, 0.0)] if image else []
        if not image:
            found = cut(source.duration_s, times, settings.clip_s)
            parts, spans = [part.frames for part in found], [(part.start_s, part.end_s) for part in found]
        try:
            images = [
                cache.read(source.video_id, shown_frames(frames, settings.clips, settings.frames_per_clip))
                for frames in parts
            ]
        except CorruptShardError:
            return None
        return DecodedVideo(source.sha256, source.duration_s, spans, images)


def _fits(cache: FrameCache, settings: Settings) -> bool:
    """Return whether a frame cache has the frames that the index needs, except for those of long videos."""
    return all(cache.settings[name] == settings.frames[name] for name in ("fps", "size", "sampling"))


def _job(source: VideoSource, settings: Settings) -> DecodeJob:
    try:
        size = source.path.stat().st_size
    except OSError:
        size = 0  # decoding reports what is wrong
    return DecodeJob(str(source.path), source.decoded_by, source.duration_s, size, settings)


def _limit(job: DecodeJob, timeout_s: float) -> float:
    return time_limit(timeout_s, job.duration_s, 0 if job.duration_s else job.bytes)


class ClusterExecutor:
    """Executor on the workers of a dask cluster, which see the files and the model folder under the same paths."""

    def __init__(self, dask: DaskExecutor, pipeline: Any, settings: Settings) -> None:
        self.dask, self.settings = dask, settings
        self.folder = os.path.abspath(pipeline.folder)
        self.frames = pipeline.frames.model_dump()

    def imap(self, sources: Iterable[VideoSource]) -> Iterator[Encoded]:
        every = list(sources)
        jobs = [tuple(every[start : start + VIDEOS_PER_JOB]) for start in range(0, len(every), VIDEOS_PER_JOB)]
        arguments = (self.folder, self.frames, self.settings)
        for job, outcomes in self.dask.map(encode_there, jobs, lambda job: job[0].video_id, *arguments):
            yield from zip(job, outcomes, strict=True)


def encode_there(
    sources: tuple[VideoSource, ...], folder: str, frames: dict[str, Any], settings: Settings
) -> list[EncodedVideo | Exception]:
    """Make the vectors of some videos on a dask worker; of failures, only the message returns.

    Raises:
        ClipBertError: this machine has no such model folder, or another model in it.
    """
    with _lock:  # a dask worker runs its tasks in threads, of which torch uses all cores
        executor = _executor_there(folder, tuple(sorted(frames.items())), _frozen(settings))
        found = {source.video_id: outcome for source, outcome in executor.imap(sources)}
    return [_portable(found[source.video_id]) for source in sources]


_lock = threading.Lock()


def _frozen(settings: Settings) -> Settings:
    return _Frozen(**vars(settings))


class _Frozen(Settings):
    """Settings that can be the key of a cache."""

    def __hash__(self) -> int:
        return hash((self.model, self.clip_s, self.tokens, repr(self.frames)))


@functools.lru_cache(maxsize=1)
def _executor_there(folder: str, frames: tuple[tuple[str, Any], ...], settings: Settings) -> LocalExecutor:
    """Return the executor of this worker, whose model stays loaded.

    Raises:
        ClipBertError: no such model folder, or another model in it.
    """
    from clipbert.inference.pipelines import pipeline
    from clipbert.model.weights.init_from import digest

    loaded = pipeline("retrieval", folder, frames=FramesParams(**dict(frames)), clips=settings.clips)
    if digest(Path(loaded.folder)) != settings.model:
        raise ClipBertError(f"{folder}: this worker has another model there. Copy the same folder to every machine.")
    plain = Settings(**{name: getattr(settings, name) for name in vars(settings)})
    return LocalExecutor(loaded, plain)


def _portable(outcome: EncodedVideo | Exception) -> EncodedVideo | Exception:
    """Return an outcome without the frames, and an error that can be pickled everywhere."""
    if isinstance(outcome, Exception):
        return ClipBertError(str(outcome))
    empty: list[np.ndarray] = []
    return replace(outcome, video=replace(outcome.video, images=empty))
