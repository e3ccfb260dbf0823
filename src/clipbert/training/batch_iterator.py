"""Batches that all processes of a training take at the same time, and the agreement to stop."""

from collections.abc import Callable

from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError
from clipbert.tasks.batch import Batch
from clipbert.training.data import Batches
from clipbert.training.monitor import ThroughputMonitor
from clipbert.training.stopping import StopRequest


class StopTraining(Exception):
    """Raised in all processes to save the state and stop.

    Attributes:
        reason: exception to raise after saving; None if another process reports the reason.
    """

    def __init__(self, reason: BaseException | None) -> None:
        super().__init__(str(reason))
        self.reason = reason


class SynchronizedBatchIterator:
    """Iterator over the batches of this process that stops in all processes at once.

    A process that stopped alone would leave the others waiting in the next collective operation.

    Attributes:
        checkpoint_busy: whether some process was still writing a checkpoint when the last batch was taken.
    """

    def __init__(
        self,
        batches: Batches,
        context: DistributedContext,
        stop: StopRequest,
        busy: Callable[[], bool],
        stop_reason: Callable[[], BaseException],
        monitor: ThroughputMonitor,
    ) -> None:
        """
        Args:
            busy: returns whether a checkpoint is still being written.
            stop_reason: returns the exception to raise after a requested stop.
        """
        self.batches, self.context, self.stop, self.monitor = batches, context, stop, monitor
        self._busy, self._stop_reason = busy, stop_reason
        self.checkpoint_busy = False
        self._peeked: Batch | None = None

    def peek(self) -> Batch:
        """Return the next batch without consuming it."""
        self._peeked = next(self)
        return self._peeked

    def __next__(self) -> Batch:
        """Return the next batch of this process.

        Raises:
            StopTraining: a stop was requested, or a batch could not be loaded, in this process or another.
        """
        if self._peeked is not None:
            batch, self._peeked = self._peeked, None
            return batch
        loaded, problem = None, None
        try:
            with self.monitor.waiting():
                loaded = next(self.batches)
        except ClipBertError as error:
            problem = error
        self.synchronize(problem)
        assert loaded is not None
        return loaded

    def synchronize(self, problem: ClipBertError | None = None) -> None:
        """Exchange stop requests and problems with the other processes.

        Raises:
            StopTraining: a process has a problem, or a stop was requested.
        """
        stop, failed, busy = self.context.all_reduce_max(self.stop.wanted, problem is not None, self._busy())
        self.checkpoint_busy = bool(busy)
        if problem is not None:
            raise StopTraining(problem)
        if failed:
            raise StopTraining(None)
        if stop:
            raise StopTraining(self._stop_reason())
