"""TCP relay in front of a server that can cut connections and drop answers."""

import contextlib
import socket
import threading


class Gate:
    """Relay from a port of 127.0.0.1 to the server while `open`.

    Requests that contain `swallowing` reach the server, but their answers do not reach the client.
    """

    def __init__(self, server_port: int) -> None:
        self.open = True
        self.swallowing: bytes | None = None
        self.swallowed = 0
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: set[socket.socket] = set()
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        """Reject new connections and break existing ones."""
        self.open = False
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop listening and break existing connections."""
        self.shut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.open:
                    self._clients.add(client)
                    threading.Thread(target=self._relay, args=(client,), daemon=True).start()
                else:
                    client.close()

    def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            self._lose = False
            while data := client.recv(1 << 16):
                if self.swallowing is not None and self.swallowing in data:
                    self._lose = True
                server.sendall(data)
        self._clients.discard(client)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if self._lose:
                    self.swallowed += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
