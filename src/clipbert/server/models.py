"""Models that the server has loaded: one for each route, replaced without a break when an alias moves."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from clipbert.errors import ClipBertError
from clipbert.server.batching import Batcher
from clipbert.server.errors import RETRY_AFTER_S, ApiError
from clipbert.server.metrics import Metrics
from clipbert.server.settings import Limits

logger = logging.getLogger(__name__)


class Chosen(Protocol):
    """Model folder and its name for users."""

    @property
    def folder(self) -> Path: ...

    @property
    def name(self) -> str: ...


# Returns the model of a name (None: the default) for some tasks; the stack keeps downloaded files.
Choose = Callable[[str | None, Sequence[str], ExitStack], Chosen]


@dataclass(frozen=True)
class ModelSource:
    """Where the model of a route comes from.

    Attributes:
        tasks: whose models the route can use.
        given: what the user named; None: the default.
        aliases: (registered name, alias) that the server follows; the first one that exists counts.
    """

    tasks: tuple[str, ...]
    given: str | None = None
    aliases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Work:
    """A request for the model thread.

    Attributes:
        video: what `Pipeline.prepare` returned.
        arguments: of `answer_batch`.
        texts: for remarks about unknown words.
    """

    video: Any
    arguments: dict[str, Any]
    texts: Sequence[str]


@dataclass(eq=False)
class LoadedModel:
    """A model in memory with its queue.

    Attributes:
        version: "models:/NAME/VERSION" of a registered model whose alias is followed; None otherwise.
        users: requests that use it now.
    """

    name: str
    version: str | None
    pipeline: Any
    scratch: ExitStack
    batcher: Batcher | None = None
    users: int = 0
    replaced: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Models:
    """Loads the models of the routes, and follows their aliases.

    Args:
        sources: by route.
        choose: finds the folder of a model.
        alias_version: returns the version that (registered name, alias) names now.
        limits, metrics: of the server.
    """

    def __init__(
        self,
        sources: Mapping[str, ModelSource],
        choose: Choose,
        alias_version: Callable[[str, str], str | None],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.sources = sources
        self._choose, self._alias_version = choose, alias_version
        self._limits, self._metrics = limits, metrics
        self._loaded: dict[str, LoadedModel] = {}
        self._loading = threading.Lock()
        self.model_thread = ThreadPoolExecutor(1, "model")
        self.preparing = 0
        self.ready = False

    def load_all(self) -> dict[str, LoadedModel]:
        """Load the models of all routes, in a thread of the caller.

        Raises:
            ClipBertError: a model is missing or damaged.
        """
        return {route: self._load(source) for route, source in self.sources.items()}

    def start(self, loaded: Mapping[str, LoadedModel]) -> None:
        """Serve what `load_all` returned; in the event loop."""
        for route, model in loaded.items():
            self._serve(route, model)
        self.ready = True

    def _serve(self, route: str, model: LoadedModel) -> None:
        model.batcher = Batcher(
            lambda work: answer_works(model.pipeline, work),
            self.model_thread,
            self._limits.batch,
            self._limits.batch_wait_ms / 1000,
            self._limits.concurrent,
            lambda: self.preparing,
            lambda size: self._metrics.batch_size.labels(route).observe(size),
        )
        before = self._loaded.get(route)
        self._loaded[route] = model
        self._metrics.show_model(route, model.name, None if before is None else before.name)

    def names(self) -> dict[str, str]:
        """Return the name of each route's model."""
        return {route: model.name for route, model in self._loaded.items()}

    @contextlib.asynccontextmanager
    async def use(self, route: str) -> AsyncIterator[LoadedModel]:
        """Yield the model of a route, which stays loaded until the block ends.

        Raises:
            ApiError: the server is still loading, or has no model for the route.
        """
        if not self.ready:
            raise ApiError(503, "starting", "The server is loading its models. Try again.", RETRY_AFTER_S)
        model = self._loaded.get(route)
        if model is None:
            raise ApiError(
                404,
                "no_model",
                f"This server has no model for {route}. Start `clipbert serve` with --model TASK=MODEL, or in a "
                "project that has trained one.",
            )
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1
            if model.users == 0 and model.replaced:
                model.idle.set()

    async def follow(self, seconds: float) -> None:
        """Look at the aliases at an interval in seconds, and replace a model whose alias has moved."""
        if not any(source.aliases for source in self.sources.values()):
            return
        while True:
            await asyncio.sleep(seconds)
            for route, source in self.sources.items():
                await self._refresh(route, source)

    async def _refresh(self, route: str, source: ModelSource) -> None:
        current = self._loaded[route]
        try:
            found = await asyncio.to_thread(self._registered, source)
            if found is None or found[0] == current.version:
                return
            new = await asyncio.to_thread(self._load, source)
        except Exception as error:  # of the registry, or of the new model: the one in use stays
            self._metrics.swaps.labels(route, "failed").inc()
            logger.warning("model not replaced", extra={"route": route, "model": current.name, "error": str(error)})
            return
        self._serve(route, new)
        self._metrics.swaps.labels(route, "done").inc()
        logger.info("model replaced", extra={"route": route, "model": new.name, "before": current.name})
        current.replaced = True
        if current.users:
            await current.idle.wait()
        await self._discard(current)

    def _registered(self, source: ModelSource) -> tuple[str, str] | None:
        """Return the version that the aliases of a source name now, and its name for users."""
        for name, alias in source.aliases:
            version = self._alias_version(name, alias)
            if version is not None:
                return f"models:/{name}/{version}", f"models:/{name}/{version} ({alias})"
        return None

    def _load(self, source: ModelSource) -> LoadedModel:
        from clipbert.inference.pipelines import pipeline

        with self._loading, ExitStack() as opened:
            found = self._registered(source)
            chosen = self._choose(source.given if found is None else found[0], source.tasks, opened)
            loaded = pipeline(None, chosen.folder)
            if loaded.task not in source.tasks:
                raise ClipBertError(
                    f"{chosen.name}: is a model of {loaded.task}: expected one of {' or '.join(source.tasks)}."
                )
            warm_up(loaded)
            name = chosen.name if found is None else found[1]
            return LoadedModel(name, None if found is None else found[0], loaded, opened.pop_all())

    async def _discard(self, model: LoadedModel) -> None:
        if model.batcher is not None:
            await model.batcher.close()
        model.pipeline = None
        model.scratch.close()

    async def close(self) -> None:
        """Release all models; no request uses one any more."""
        self.ready = False
        for model in self._loaded.values():
            await self._discard(model)
        self._loaded.clear()
        self.model_thread.shutdown(wait=True, cancel_futures=True)


def warm_up(pipeline: Any) -> None:
    """Answer one request about black frames, so that the first real one does not pay for what is set up once."""
    import numpy as np

    asked = {"question": "a", "top": 1, "options": ["a", "b"], "texts": ["a"]}
    video = pipeline.prepare(np.zeros((2, 64, 64, 3), dtype=np.uint8))
    for answer in answer_works(pipeline, [Work(video, asked, ["a"])]):
        if isinstance(answer, Exception):
            raise answer


def answer_works(pipeline: Any, works: Sequence[Work]) -> list[Any]:
    """Return (rows, remarks) for each request, or its exception; all go through the model together.

    Where a request makes the batch fail, each one is answered alone.
    """
    from clipbert.inference.answer_batch import answer_batch
    from clipbert.inference.base import INPUT_ERRORS

    try:
        embeds = pipeline.encode_prepared([work.video for work in works])
        rows = answer_batch(pipeline, embeds, [work.arguments for work in works])
    except INPUT_ERRORS as error:
        if len(works) == 1:
            return [error]
        return [answer for work in works for answer in answer_works(pipeline, [work])]
    notes = [pipeline.remarks_of(embed, work.texts) for embed, work in zip(embeds, works, strict=True)]
    return list(zip(rows, notes, strict=True))
