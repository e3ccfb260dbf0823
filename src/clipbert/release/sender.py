"""A thread that delivers a run's outbox while its training goes on."""

import threading
import time
from collections.abc import Callable

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.release.delivery import Delivery, RunNotFound
from clipbert.release.outbox import Outbox, format_count
from clipbert.release.store import Store

SEND_EVERY_S = 5.0
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 30.0
CLOSE_S = 10.0


class Sender(threading.Thread):
    """Flushes the outbox to the disk and sends it, every few seconds; a store that is away is asked again ever less
    often, up to every half minute. It says so when the store goes and when it comes back, not in between.

    The outbox is this thread's from `start` on: it lets go of it at its end.
    """

    def __init__(self, outbox: Outbox, name: str, connect: Callable[[], Store]) -> None:
        """Args:
        connect: opens the store; called again until it succeeds.
        """
        super().__init__(name="MLflow sender", daemon=True)
        self.outbox, self.run_name = outbox, name
        self.error: Exception | None = None  # why the last attempt failed
        self._connect = connect
        self._delivery: Delivery | None = None
        self._failures = 0
        self._said = False
        self._finished = False
        self._closing = threading.Event()
        self._deadline = float("inf")

    def run(self) -> None:
        """Send until `close`, and once more then."""
        wait = SEND_EVERY_S
        while not self._closing.wait(wait):
            wait = self._send()
        self._send()
        if self.outbox.empty and self._finished:
            self.outbox.remove()
        else:
            self.outbox.close()

    def close(self, status: str) -> bool:
        """Record how the run ended, flush, send for a few seconds more; returns whether MLflow has everything."""
        self.outbox.append("status", {"status": status})
        self.outbox.fsync()
        self._finished = status == "FINISHED"
        self._deadline = time.monotonic() + CLOSE_S
        self._closing.set()
        self.join(CLOSE_S)
        return self.outbox.empty

    def _send(self) -> float:
        """One attempt; returns after how many seconds the next one is due."""
        self.outbox.fsync()
        sent = 0
        try:
            if self._delivery is None:
                self._delivery = Delivery(self.outbox, self._connect())
            while time.monotonic() < self._deadline and (chunk := self._delivery.deliver_next()):
                sent += sum(record.values for record in chunk)
            while self._delivery.left_out:
                errors.print(f"{self.run_name}: {self._delivery.left_out.pop(0)}; left out.", markup=False)
        except Exception as error:  # whatever it is, the training goes on and the outbox keeps what it has
            self.error = error
            self._failures += 1
            if not self._said and (self._failures > 1 or isinstance(error, RunNotFound)):
                self._said = True
                kind = "" if isinstance(error, ClipBertError) else f"{type(error).__name__}: "
                errors.print(
                    f"{kind}{error}\nThe training goes on; what it measures waits in {self.outbox.folder}.",
                    markup=False,
                )
            return min(FIRST_RETRY_S * 2.0 ** (self._failures - 1), LONGEST_RETRY_S)
        if self._said:
            errors.print(f"MLflow answers again: {format_count(sent)} of {self.run_name} delivered.", markup=False)
        self._said, self._failures, self.error = False, 0, None
        return SEND_EVERY_S
