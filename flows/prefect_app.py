"""The Prefect server behind the access checks of `clipbert.web_guard`: `python -m flows.prefect_app --port N`.

It does what `prefect server start` does with one process; the environment variable CLIPBERT_ACCESS says who may use it.
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
    parser.add_argument("--ephemeral", action="store_true", help="no pages and no schedules, for one flow")
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
