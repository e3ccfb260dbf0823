"""The end of the server: requests that run are answered, new ones are not taken."""

import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from clipbert_server import RunningServer, running_server

pytestmark = pytest.mark.slow

QUESTION = {"question": "what color is it?", "explain": "true"}


def arrived(metrics: str) -> float:
    """Return how many requests about videos have arrived, next to the upload and the request for the metrics."""
    running = float(re.findall(r"^clipbert_requests_in_flight (\S+)", metrics, re.MULTILINE)[0])
    done = re.findall(r'^clipbert_requests_total{route="/v1/ask",status="200"} (\S+)', metrics, re.MULTILINE)
    return running - 2 + sum(map(float, done))


def takes_requests(server: RunningServer) -> bool:
    """Return whether the server answers a new connection."""
    try:
        with server.client() as client:
            return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_requests_in_flight_are_answered_before_the_server_ends(served_project: Path) -> None:
    with running_server(served_project) as server:
        host, port = server.address.removeprefix("http://").split(":")
        video = (served_project / "data" / "videos" / "0.mp4").read_bytes()
        boundary = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
        body = boundary % (b"question", b"") + b"what color is it?\r\n"
        body += boundary % (b"video", b'; filename="a.mp4"') + video + b"\r\n--b--\r\n"
        head = f"POST /v1/ask HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((host, int(port))) as uploading, ThreadPoolExecutor(4) as threads:
            uploading.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode() + body[:500])

            def send(_: int) -> int:
                with server.client() as client:
                    return client.post("/v1/ask", data={"path": "videos/1.mp4", **QUESTION}).status_code

            running = [threads.submit(send, number) for number in range(4)]
            deadline = time.monotonic() + 30
            with server.client() as client:
                while arrived(client.get("/metrics").text) < 4:
                    assert time.monotonic() < deadline
            server.process.send_signal(signal.SIGTERM)
            while takes_requests(server):  # until the server has noticed the signal
                assert time.monotonic() < deadline
            uploading.sendall(body[500:])
            uploading.settimeout(30)
            answer = b""
            while chunk := uploading.recv(65536):
                answer += chunk
            assert answer.startswith(b"HTTP/1.1 200 OK"), answer
            assert [each.result() for each in running] == [200] * 4
        assert server.process.wait(60) == 0
        assert [each for each in server.records() if each["level"] == "error"] == []


def test_ctrl_c_ends_it_and_a_used_port_is_named(served_project: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from clipbert.cli.main import app

    with running_server(served_project) as server:
        port = server.address.rsplit(":", 1)[1]
        model = f"open_qa={served_project / 'artifacts' / 'models' / 'open_qa'}"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            done = CliRunner().invoke(app, ["serve", "--port", port, "--model", model])
        assert "another program uses it: choose another with --port" in str(done.exception)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
