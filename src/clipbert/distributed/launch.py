"""`clipbert train` with several processes: torchrun's agent in this process, and what becomes of its end."""

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
from clipbert.exit_status import ENDED
from clipbert.files.leftovers import scratch_folder

LOOK_EVERY_S = 1.0


def launch(processes: int, max_restarts: int, arguments: list[str]) -> int:
    """Run `clipbert ARGUMENTS` in `processes` processes, all of them again when one has died; the exit code of all.

    An end that another try would not change, as a user's error or a stop after SIGTERM, is not tried again.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    # Of torch 2.13: otherwise restarted processes find the addresses of those that died, and fail.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # The agent's own words are of its inside; what a user should know is said here and by the first process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(logging.CRITICAL)
    with scratch_folder() as folder:
        ended = folder / "ended"
        os.environ[ENDED] = str(ended)
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
            if not ended.exists():
                errors.print(
                    "clipbert: stopped before the processes had saved; what lies on the disk is what it was.",
                    markup=False,
                )
                return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            if ended.exists():
                return int(ended.read_text())
            rank, failure = failed.get_first_failure()
            errors.print(
                f"clipbert: process {rank} of {processes} ended with exit code {failure.exitcode}, after "
                f"{max_restarts} restarts (train.max_restarts). Run the command again: it goes on from the last "
                "checkpoint.",
                markup=False,
            )
            return OUR_ERROR
        finally:
            del os.environ[ENDED]
        return int(ended.read_text()) if ended.exists() else 0


def _stop_with_dvc() -> None:
    """DVC kills no child of its own: without it, the processes save and end."""
    if "DVC_STAGE" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        console.print("The dvc process that started this training is gone: it is saved and stopped.", markup=False)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="stop-with-dvc").start()
