"""Dynamic batching: requests that arrive while the model works share the next forward pass."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from clipbert.server.errors import RETRY_AFTER_S, ApiError

Run = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(eq=False)
class _Waiting:
    item: Any
    deadline: float
    future: "asyncio.Future[Any]"


class Batcher:
    """Queue in front of a function that answers several items at once; it lives in one event loop.

    A batch starts as soon as the function is free: with what waits then, and with what arrives within `wait_s` while
    other requests are being prepared. An item whose deadline has passed is dropped.

    Args:
        run: returns an answer or an exception for each item; runs in `executor`.
        most: items in a batch.
        wait_s: how long a batch that is not full waits for `coming` items.
        capacity: items that may wait.
        coming: returns how many more items are being prepared.
        observe: gets the size of each batch.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        most: int,
        wait_s: float,
        capacity: int,
        coming: Callable[[], int] = lambda: 0,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run, self._executor = run, executor
        self._most, self._wait_s, self._capacity = most, wait_s, capacity
        self._coming, self._observe = coming, observe
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    async def submit(self, item: Any, deadline: float) -> Any:
        """Return the answer to an item.

        Args:
            deadline: of `time.monotonic`, after which the answer is of no use.

        Raises:
            ApiError: the queue is full, or the deadline passes.
            Exception: what `run` returned for the item.
        """
        if len(self._queue) >= self._capacity:
            raise ApiError(
                429, "queue_full", f"{self._capacity} requests wait for the model already. Try again.", RETRY_AFTER_S
            )
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        waiting = _Waiting(item, deadline, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await waiting.future
        except TimeoutError:
            raise _late() from None
        finally:
            waiting.future.cancel()
            with contextlib.suppress(ValueError):
                self._queue.remove(waiting)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            end = time.monotonic() + self._wait_s
            while len(self._queue) < self._most and self._coming() and (left := end - time.monotonic()) > 0:
                self._arrived.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), left)
            batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
            now = time.monotonic()
            batch = [each for each in batch if not each.future.done() and each.deadline > now]
            if not batch:
                continue
            self._observe(len(batch))
            try:
                answers = await loop.run_in_executor(self._executor, self._run, [each.item for each in batch])
            except Exception as error:
                answers = [error] * len(batch)
            for each, answer in zip(batch, answers, strict=True):
                if each.future.done():
                    continue
                if isinstance(answer, Exception):
                    each.future.set_exception(answer)
                else:
                    each.future.set_result(answer)

    async def close(self) -> None:
        """Stop; nothing may wait any more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def _late() -> ApiError:
    return ApiError(
        503, "too_late", "The server could not answer in time: it has too much to do. Try again.", RETRY_AFTER_S
    )
