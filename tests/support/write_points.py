"""Injection at every operation that writes during a promotion: kills the process, or lets the operation fail."""

import errno
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine.default import DefaultDialect

from clipbert.release import ledger


class WritePoints:
    """Counts database commits (MLflow's and the ledger's), fsyncs, renames and new files; acts at the chosen one.

    Points are numbered from 0: 2k is before operation k, 2k + 1 after it.
    """

    def __init__(self, chosen: int | None = None, act: Callable[[str], None] | None = None) -> None:
        self.chosen, self.act, self.passed = chosen, act, 0
        self.names: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Wrap the operations; for a process of its own, or undone by `patch`."""
        for owner, name in (
            (DefaultDialect, "do_commit"),
            (ledger, "_commit"),
            (os, "fsync"),
            (os, "replace"),
            (os, "mkdir"),
        ):
            patch.setattr(owner, name, self._wrap(getattr(owner, name), name))

    def _wrap(self, operation: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if name == "do_commit" and not arguments[1].in_transaction:  # the end of a read
                return operation(*arguments, **named)
            self._pass(f"before {name}")
            result = operation(*arguments, **named)
            self._pass(f"after {name}")
            return result

        return wrapped

    def _pass(self, name: str) -> None:
        self.names.append(name)
        self.passed += 1
        if self.passed - 1 == self.chosen and self.act is not None:
            self.act(name)


def kill(name: str) -> None:
    """End this process as SIGKILL does."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_space(name: str) -> None:
    """Fail as a full disk does: commits with SQLite's message, other writes with that of the system."""
    if name.endswith("commit"):
        raise sqlite3.OperationalError("database or disk is full")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns its exit code, or minus the signal that ended it.

    Database connections must not cross a fork: open the store in children alone.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
