"""Thread that delivers the outbox of a running training."""

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
    """Thread that flushes the outbox to the disk and sends it every few seconds.

    While the store does not answer, the delay between attempts doubles up to LONGEST_RETRY_S. One line on stderr
    reports that the store does not answer, another one that it answers again. The thread owns the outbox from `start`
    on and closes it at its end.
    """

    def __init__(self, outbox: Outbox, name: str, connect: Callable[[], Store]) -> None:
        """Create the thread.

        Args:
            outbox: the outbox to deliver.
            name: the run's name, for messages.
            connect: opens the store; called again until it succeeds.
        """
        super().__init__(name="MLflow sender", daemon=True)
        self.outbox, self.run_name = outbox, name
        self.error: Exception | None = None  # why the last attempt failed
        self._connect = connect
        self._delivery: Delivery | None = None
        self._failures = 0
        self._outage_reported = False
        self._finished = False
        self._closing = threading.Event()
        self._deadline = float("inf")

    def run(self) -> None:
        """Send until `close` is called, then once more."""
        wait = SEND_EVERY_S
        while not self._closing.wait(wait):
            wait = self._send()
        self._send()
        if self.outbox.empty and self._finished:
            self.outbox.remove()
        else:
            self.outbox.close()

    def close(self, status: str) -> bool:
        """Record the final status, flush, send for up to CLOSE_S; return whether MLflow has all records."""
        self.outbox.append("status", {"status": status})
        self.outbox.fsync()
        self._finished = status == "FINISHED"
        self._deadline = time.monotonic() + CLOSE_S
        self._closing.set()
        self.join(CLOSE_S)
        return self.outbox.empty

    def _send(self) -> float:
        """Make one attempt and return the seconds until the next one."""
        self.outbox.fsync()
        sent = 0
        try:
            if self._delivery is None:
                self._delivery = Delivery(self.outbox, self._connect())
            while time.monotonic() < self._deadline and (chunk := self._delivery.deliver_next()):
                sent += sum(record.values for record in chunk)
            while self._delivery.skipped:
                errors.print(f"{self.run_name}: {self._delivery.skipped.pop(0)}; skipped.")
        except Exception as error:  # the training continues after any error, and the outbox keeps its records
            self.error = error
            self._failures += 1
            if not self._outage_reported and (self._failures > 1 or isinstance(error, RunNotFound)):
                self._outage_reported = True
                kind = "" if isinstance(error, ClipBertError) else f"{type(error).__name__}: "
                errors.print(
                    f"{kind}{error}\nThe training continues; its records are kept in {self.outbox.folder}.",
                )
            return min(FIRST_RETRY_S * 2.0 ** (self._failures - 1), LONGEST_RETRY_S)
        if self._outage_reported:
            errors.print(f"MLflow answers again: {format_count(sent)} of {self.run_name} delivered.")
        self._outage_reported, self._failures, self.error = False, 0, None
        return SEND_EVERY_S
