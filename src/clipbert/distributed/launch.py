"""Launch of `clipbert train` and `clipbert evaluate` in several processes, with torchrun's agent in this process."""

import logging
import os
import signal
import sys
import threading
import time

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from clipbert.console import console, errors
from clipbert.errors import OUR_ERROR
from clipbert.exit_status import EXIT_FILE
from clipbert.files.leftovers import scratch_folder

CHECK_PARENT_S = 1.0


def launch(processes: int, max_restarts: int, arguments: list[str]) -> int:
    """Run `clipbert ARGUMENTS` in several processes and return their common exit code.

    When one process dies, all are restarted. They are not restarted after an end that a restart would not change, such
    as a user's error or a stop after SIGTERM.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    # Without it, processes that torch 2.13 restarts use the addresses of those that died, and fail.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # The agent logs its internals; messages for users are printed here and by the first process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(logging.CRITICAL)
    with scratch_folder() as folder:
        exit_file = folder / "exit_code"
        os.environ[EXIT_FILE] = str(exit_file)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"clipbert-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=max_restarts,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(),
        )
        _stop_with_dvc()
        try:
            elastic_launch(config, sys.executable)("-m", "clipbert", *arguments)
        except SignalException as stopped:
            if not exit_file.exists():
                errors.print(
                    "clipbert: stopped before the processes had saved; the checkpoints on the disk are unchanged."
                )
                return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            if exit_file.exists():
                return int(exit_file.read_text())
            rank, failure = failed.get_first_failure()
            errors.print(
                f"clipbert: process {rank} of {processes} ended with exit code {failure.exitcode}, after "
                f"{max_restarts} restarts (train.max_restarts). Rerun the command; it resumes from what is "
                "saved."
            )
            return OUR_ERROR
        finally:
            del os.environ[EXIT_FILE]
        return int(exit_file.read_text()) if exit_file.exists() else 0


def _stop_with_dvc() -> None:
    """Stop the processes when the DVC that started this one is gone, because DVC ends no child of its own."""
    if "DVC_STAGE" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_PARENT_S)
        console.print("The dvc process that started this command is gone: saving the state and stopping.")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="stop-with-dvc").start()
