"""Prefect server behind the access checks of `clipbert.web_guard`: `python -m flows.prefect_app`.

It is equivalent to `prefect server start` with one process. The environment variable CLIPBERT_ACCESS contains the port
and the access rules.
"""

import argparse
import os

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings

from clipbert.web_guard import WebGuard, read_access
from flows.supervisor import HOST


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(prog="python -m flows.prefect_app")
    parser.add_argument("--ephemeral", action="store_true", help="no UI and no schedules, for a single flow")
    options = parser.parse_args()
    access = read_access(os.environ["CLIPBERT_ACCESS"])
    server = get_current_settings().server
    app = create_app(ephemeral=options.ephemeral, final=True)
    uvicorn.run(
        WebGuard(app, access),
        host=HOST,
        port=access.port,
        log_level=server.logging_level.lower(),
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main()
