"""Agent of torchrun that runs training_process.py in several processes and restarts them; run by path.

Arguments: processes, restarts, then those of training_process.py. Its processes are forks of a server that has imported
torch; `clipbert train` and torchrun's command line, which start interpreters, have their own tests.
"""

import json
import logging
import multiprocessing
import sys
from pathlib import Path

import training_process
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["training_process"])
    logging.disable(logging.CRITICAL)  # as `clipbert train` does: the agent logs its own traceback of a failed process
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(sys.argv[1]),
        max_restarts=int(sys.argv[2]),
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="forkserver",
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(),
    )
    elastic_launch(config, training_process.run)(Path(sys.argv[3]), Path(sys.argv[4]), json.loads(sys.argv[5]))
