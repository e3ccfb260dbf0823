"""The process of the server: its socket, slow clients, signals, and the end of its work."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipbert.errors import ClipBertError
from clipbert.sampling.decoder_pool import limit_decoders, stop_decoders
from clipbert.server.app import create_app
from clipbert.server.logs import install_logs
from clipbert.server.metrics import Metrics
from clipbert.server.models import Choose, Models, ModelSource
from clipbert.server.settings import ServerSettings

logger = logging.getLogger(__name__)
KEEP_ALIVE_S = 10
BACKLOG = 256
CONNECTIONS_PER_REQUEST = 8  # open connections for each place of --max-concurrent


def protocol_with_header_limit(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol, which closes a connection whose request does not begin in time.

    uvicorn itself waits forever for the head of a request.
    """

    class LimitedH11Protocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop()

        def _watch(self) -> None:
            """Run the timer while the head of a request is awaited."""
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting:
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._late)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.close()

    return LimitedH11Protocol


class _Server(uvicorn.Server):
    """Server that ends with exit code 0 after SIGTERM, and that leaves Ctrl-C to the command line."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    settings: ServerSettings,
    sources: Mapping[str, ModelSource],
    choose: Choose,
    alias_version: Callable[[str, str], str | None],
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that run then are answered first.

    Args:
        sources, choose, alias_version: as in `Models`.
        announce: gets the address once the socket is open.

    Raises:
        ClipBertError: the address cannot be used, or a model cannot be loaded.
    """
    opened = _open(settings)
    if settings.decoders is not None:
        limit_decoders(settings.decoders)
    install_logs()
    metrics = Metrics()
    models = Models(sources, choose, alias_version, settings.limits, metrics)
    failures: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        create_app(settings, models, metrics, on_failure),
        http=protocol_with_header_limit(settings.limits.header_s),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.drain_s),
        limit_concurrency=CONNECTIONS_PER_REQUEST * settings.limits.concurrent,
        backlog=BACKLOG,
    )
    server = _Server(config)
    host, port = opened.getsockname()[:2]
    announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        server.run(sockets=[opened])
    finally:
        opened.close()
        stop_decoders()
    if failures:
        raise failures[0]


def _open(settings: ServerSettings) -> socket.socket:
    """Open the socket.

    Raises:
        ClipBertError: the address is in use, or not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)  # clients that connect while the models load wait for their answer
        opened.set_inheritable(True)
    except OSError as error:
        remedy = (
            "another program uses it: choose another with --port, or --port 0 for a free one"
            if error.errno == errno.EADDRINUSE
            else "check --host and --port"
        )
        raise ClipBertError(
            f"--host {settings.host} --port {settings.port}: cannot listen there ({error.strerror or error}): {remedy}."
        ) from error
    return opened
