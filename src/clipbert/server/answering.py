"""From the fields of a request to an answer: read, check and decode the video, ask the model, explain."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile

from clipbert.server.errors import RETRY_AFTER_S, ApiError
from clipbert.server.library import Library
from clipbert.server.metrics import Metrics
from clipbert.server.models import LoadedModel, Models, Work
from clipbert.server.requests import (
    Shape,
    ShapeChecker,
    VideoFile,
    as_input,
    decode_limit,
    find_file,
    named_by_content,
    stored_upload,
)
from clipbert.server.schemas import About, Explained, ExplainedClip, ExplainedWord, ModelInfo, ShownFrame, VideoInfo
from clipbert.server.settings import ServerSettings

EXPLAINED_HEIGHT = 240  # pixels of the frames of an explanation


@dataclass(frozen=True)
class VideoFields:
    """The fields of a request that say which video it is about."""

    video: UploadFile | None
    path: str | None
    video_id: str | None
    start_s: float | None
    end_s: float | None
    explain: bool = False

    @property
    def given(self) -> int:
        """How many videos are named."""
        return sum(each is not None for each in (self.video, self.path, self.video_id))


@dataclass(frozen=True)
class OpenedVideo:
    """A checked and decoded video.

    Attributes:
        item: as a pipeline takes it.
        prepared: what `Pipeline.prepare` returned.
    """

    file: VideoFile
    shape: Shape
    item: Any
    prepared: Any


class Answering:
    """The work of the routes; it lives in the event loop and leaves what blocks to threads."""

    def __init__(self, settings: ServerSettings, models: Models, metrics: Metrics) -> None:
        self.settings, self.models, self.metrics = settings, models, metrics
        self._shapes = ShapeChecker(settings.limits)
        self._threads = ThreadPoolExecutor(settings.limits.concurrent, "decode")
        self._running = 0
        self.library = Library(settings.index)

    def close(self) -> None:
        """Stop the threads; no request runs any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def slot(self) -> Iterator[float]:
        """Occupy one of the places for requests, and yield when its answer is due.

        Raises:
            ApiError: all places are taken.
        """
        limits = self.settings.limits
        if self._running >= limits.concurrent:
            raise ApiError(
                429,
                "too_many_requests",
                f"{limits.concurrent} requests run already (--max-concurrent). Try again.",
                RETRY_AFTER_S,
            )
        self._running += 1
        try:
            yield time.monotonic() + limits.request_s
        finally:
            self._running -= 1

    async def answer(
        self,
        route: str,
        fields: VideoFields,
        arguments: dict[str, Any],
        texts: Sequence[str],
        explained: Callable[[list[dict[str, Any]]], tuple[str, str]],
    ) -> tuple[list[dict[str, Any]], About, Any]:
        """Return the rows of the answer, what all answers have, and the pipeline that gave it.

        Args:
            arguments: of `answer_batch`.
            texts: that the user wrote, for remarks.
            explained: returns the text and the answer to explain, from the rows.

        Raises:
            ApiError: the request cannot be served.
        """
        with self.slot() as deadline:
            async with self.models.use(route) as model, self.opened(fields, model, deadline) as video:
                assert model.batcher is not None
                with _as_client_error(video.file, "invalid"):
                    rows, remarks = await model.batcher.submit(Work(video.prepared, arguments, texts), deadline)
                explanation = None
                if fields.explain:
                    text, answer = explained(rows)
                    options = arguments.get("options", ())
                    with _as_client_error(video.file, "no_explanation"):
                        explanation = await self.model_call(
                            deadline, explain_answer, model.pipeline, video.item, text, answer, options
                        )
                shape = video.shape
                about = About(
                    remarks,
                    VideoInfo(video.file.name, shape.width, shape.height, shape.duration_s),
                    ModelInfo(model.name, model.pipeline.task),
                    explanation,
                )
                return rows, about, model.pipeline

    @contextlib.asynccontextmanager
    async def opened(self, fields: VideoFields, model: LoadedModel, deadline: float) -> AsyncIterator[OpenedVideo]:
        """Yield the video of a request; an upload is removed after the block.

        Raises:
            ApiError: the request names no video, or one that cannot be used.
        """
        async with AsyncExitStack() as stack:
            self.models.preparing += 1
            started = time.monotonic()
            try:
                file = await self._file(fields, stack, deadline)
                opened = await self._in_thread(deadline, self._open, file, fields, model)
            finally:
                self.models.preparing -= 1
            self.metrics.decode_seconds.observe(time.monotonic() - started)
            yield opened

    async def _file(self, fields: VideoFields, stack: AsyncExitStack, deadline: float) -> VideoFile:
        limits = self.settings.limits
        if fields.given != 1:
            raise ApiError(
                422,
                "invalid",
                f"{fields.given} videos are given: expected one of the upload `video`, the `path` of a file and the "
                "`video_id` of an indexed video.",
            )
        if fields.video_id is not None:
            path = await self.library_call(self.library.file, fields.video_id)
            return VideoFile(path, fields.video_id, path.stat().st_size)
        if fields.path is not None:
            return find_file(self.settings.roots, fields.path, limits)
        assert fields.video is not None
        copied = stored_upload(fields.video.file, fields.video.filename, limits)
        return await self._in_thread(deadline, stack.enter_context, copied)

    def _open(self, file: VideoFile, fields: VideoFields, model: LoadedModel) -> OpenedVideo:
        """Check and decode a file, in a thread."""
        shape = self._shapes.check(file)
        file = named_by_content(file, shape)
        item = as_input(file, fields.start_s, fields.end_s)
        frames = model.pipeline.frames.model_copy(update={"timeout_s": decode_limit(self.settings.limits, file.size)})
        with _as_client_error(file, "not_a_video"):
            return OpenedVideo(file, shape, item, model.pipeline.prepare(item, frames))

    async def search(self, example: VideoFields | None, query: dict[str, Any]) -> tuple[list[Any], int, str]:
        """Return the hits of a search, how many videos were searched, and the name of the model.

        Args:
            example: a video to search for; None: `query` has a text.
            query: arguments of `SearchIndex.search`.

        Raises:
            ApiError: the request cannot be served.
        """
        with self.slot() as deadline:
            async with AsyncExitStack() as stack:
                model = await stack.enter_async_context(self.models.use("match"))
                if model.pipeline.task != "retrieval":
                    raise ApiError(
                        404, "no_model", f"A search needs a model of retrieval, and this server has {model.name}."
                    )
                if example is not None:
                    video = await stack.enter_async_context(self.opened(example, model, deadline))
                    query = query | {"video": video.item}
                hits, videos = await self.model_call(deadline, self.library.search, model.pipeline, query)
                return hits, videos, model.name

    async def thumbnail(self, video_id: str, at_s: float) -> bytes:
        """Return a frame of an indexed video as JPEG.

        Raises:
            ApiError: the video is not in the index or cannot be decoded.
        """
        async with self.models.use("match") as model:
            deadline = time.monotonic() + self.settings.limits.request_s
            found: bytes = await self._in_thread(deadline, self.library.thumbnail, video_id, at_s, model.pipeline)
            return found

    async def library_call(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a call of the library returns, in a thread."""
        return await self._in_thread(time.monotonic() + self.settings.limits.request_s, call, *arguments)

    async def model_call(self, deadline: float, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a call in the model thread returns.

        Raises:
            ApiError: the deadline passes.
        """
        return await self._until(deadline, self.models.model_thread, call, *arguments)

    async def _in_thread(self, deadline: float, call: Callable[..., Any], *arguments: Any) -> Any:
        return await self._until(deadline, self._threads, call, *arguments)

    @staticmethod
    async def _until(deadline: float, threads: ThreadPoolExecutor, call: Callable[..., Any], *arguments: Any) -> Any:
        future = asyncio.get_running_loop().run_in_executor(threads, call, *arguments)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.shield(future)
        except TimeoutError:
            future.cancel()
            raise ApiError(
                503, "too_late", "The server could not answer in time: it has too much to do. Try again.", RETRY_AFTER_S
            ) from None


@contextlib.contextmanager
def _as_client_error(file: VideoFile, code: str) -> Iterator[None]:
    """Turn what a client's video or text causes into an answer of status 422."""
    from clipbert.inference.base import INPUT_ERRORS

    try:
        yield
    except ApiError:
        raise
    except INPUT_ERRORS as error:
        raise ApiError(422, code, file.said(error) or "The video needs too much memory.") from error


def explain_answer(pipeline: Any, item: Any, text: str, answer: str, options: Sequence[str]) -> Explained:
    """Return what an answer rests on, with the frames as JPEG."""
    from PIL import Image

    from clipbert.evaluation.pictures import data_url
    from clipbert.inference.explain import explain

    found = explain(pipeline, item, text, answer, options)
    clips = []
    for score, pictures, times, cells in zip(
        found.clip_scores.tolist(), found.frames, found.times.tolist(), found.cells.tolist(), strict=True
    ):
        frames = []
        for picture, seconds in zip(pictures, times, strict=True):
            image = Image.fromarray(picture)
            image.thumbnail((10 * EXPLAINED_HEIGHT, EXPLAINED_HEIGHT))
            frames.append(ShownFrame(seconds, data_url(image)))
        clips.append(ExplainedClip(score, frames, cells))
    words = [ExplainedWord(word, relevance) for word, relevance in found.words]
    height, width = found.shown
    return Explained(answer, clips, words, height, width)
