"""The program `clipbert` for DVC and shells in tests, without the seconds of its imports.

`preloaded_clipbert()` returns a folder for the front of PATH. The `clipbert` in it is a client of a server that has
imported torch, MLflow and this package: the server forks, and the fork is the program, with the client's arguments,
environment, working directory and open files. Signals and the end of the client reach the fork.
"""

import array
import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from forked_python import ForkedProgram, become

CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: server.send(bytes([number])))
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)], ensure_ascii=True).encode()
server.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(request)
code = int(server.recv(16))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@functools.cache
def preloaded_clipbert() -> Path:
    """Return the folder with `clipbert`; the server runs until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="clipbert-tests-"))
    server = ForkedProgram(["-m", "preloaded_clipbert", str(folder / "socket")])
    server.wait_for_line("ready")
    atexit.register(server.kill)
    client = folder / "bin" / "clipbert"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, address=str(folder / "socket")))
    client.chmod(0o755)
    return client.parent


def serve(address: str) -> None:
    """Fork for each client until the process that started this one has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    starter = multiprocessing.parent_process()
    assert starter is not None
    while starter.sentinel not in wait([listener, starter.sentinel]):
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run_for(connection)
            os._exit(0)
        connection.close()


def _run_for(client: socket.socket) -> None:
    """Fork the client's program, pass signals on, and send its exit code, which is negative for a signal."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, ancillary, _, _ = client.recvmsg(4, socket.CMSG_SPACE(12))
    files = array.array("i", ancillary[0][2])
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += client.recv(1 << 20)
    program = os.fork()
    if program == 0:
        client.close()
        _run_program(list(files), *json.loads(request))
    for file in files:
        os.close(file)
    end = os.pidfd_open(program)
    while end not in select.select([client, end], [], [])[0]:
        number = client.recv(1)
        if not number:  # the client was killed
            os.killpg(program, signal.SIGKILL)
            return
        os.kill(program, number[0])
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        client.sendall(str(code).encode())


def _run_program(files: list[int], arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Become `clipbert ARGUMENTS` and exit with its code."""
    os.setsid()
    code: Any = 0
    try:
        become(["-m", "clipbert", *arguments], environment, cwd, files)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    os._exit(code or 0)


if __name__ == "__main__":
    serve(sys.argv[1])
