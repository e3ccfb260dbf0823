"""The next batch, once all processes have theirs and none wants to stop."""

from collections.abc import Callable

from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError
from clipbert.tasks.base import Batch
from clipbert.training.data import Batches
from clipbert.training.monitor import ThroughputMonitor
from clipbert.training.stopping import StopRequest


class StopTraining(Exception):
    """The training is to be saved and left; `reason` is what to raise then, None where another process says why."""

    def __init__(self, reason: BaseException | None) -> None:
        super().__init__(str(reason))
        self.reason = reason


class SynchronizedBatchIterator:
    """Batches, and what is agreed on before each: a process that left alone would let the others wait for it."""

    def __init__(
        self,
        batches: Batches,
        ranks: DistributedContext,
        stop: StopRequest,
        busy: Callable[[], bool],
        end: Callable[[], BaseException],
        meter: ThroughputMonitor,
    ) -> None:
        """
        Args:
            busy: whether a checkpoint is still being written.
            end: what to raise after a stop was asked for.
        """
        self.batches, self.ranks, self.stop, self.meter = batches, ranks, stop, meter
        self._busy, self._end = busy, end
        self.busy = False
        self._held: Batch | None = None

    def peek(self) -> Batch:
        """The next batch, which stays the next one."""
        self._held = next(self)
        return self._held

    def __next__(self) -> Batch:
        """The next batch of this process.

        Raises:
            Ended: a stop was asked for, or a batch could not be made, here or in another process.
        """
        if self._held is not None:
            held, self._held = self._held, None
            return held
        batch, problem = None, None
        try:
            with self.meter.waiting():
                batch = next(self.batches)
        except ClipBertError as error:
            problem = error
        self.agree(problem)
        assert batch is not None
        return batch

    def agree(self, problem: ClipBertError | None = None) -> None:
        """Tell the others, and hear them.

        Raises:
            Ended: as `__next__`.
        """
        wanted, failed, busy = self.ranks.highest(self.stop.wanted, problem is not None, self._busy())
        self.busy = bool(busy)
        if problem is not None:
            raise StopTraining(problem)
        if failed:
            raise StopTraining(None)
        if wanted:
            raise StopTraining(self._end())
