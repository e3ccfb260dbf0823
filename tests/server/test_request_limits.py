"""Limits and access: what is refused, with which status, and which limit the message names."""

import gzip
import io
import os
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from clipbert_server import RunningServer, running_server
from PIL import Image

pytestmark = pytest.mark.slow

QUESTION = {"question": "what color is it?"}
KEY = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def strict(served_project: Path) -> Iterator[RunningServer]:
    """A server with small limits and a key."""
    options = ["--max-upload-mb", "0.5", "--upload-timeout", "2", "--header-timeout", "2", "--max-duration", "3"]
    options += ["--max-megapixels", "0.1", "--max-concurrent", "2", "--allowed-host", "videos.example.org"]
    with running_server(served_project, *options, key=KEY) as server:
        yield server
        assert server.process.poll() is None, server.log.read_text()


@pytest.fixture
def client(strict: RunningServer) -> Iterator[httpx.Client]:
    with strict.client() as found:
        yield found


def refused(sent: httpx.Response, status: int, code: str) -> str:
    """Check the status and the code of an answer, and return its message."""
    assert sent.status_code == status, sent.text
    assert sent.json()["error"]["code"] == code, sent.text
    return str(sent.json()["error"]["message"])


def test_large_files(client: httpx.Client, served_project: Path) -> None:
    message = refused(client.post("/v1/ask", files={"video": b"x" * 2_000_000}, data=QUESTION), 413, "too_large")
    assert message == "The body has more than 0.5 MB (--max-upload-mb)."
    message = refused(client.post("/v1/ask", files={"video": b"x" * 600_000}, data=QUESTION), 413, "too_large")
    assert "has 0.6 MB: expected at most 0.5 MB (--max-upload-mb)" in message

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 100_000

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    refused(client.post("/v1/ask", content=endless(), headers=kind), 413, "too_large")
    big = served_project / "data" / "big.mp4"
    big.write_bytes(b"x" * 600_000)
    message = refused(client.post("/v1/ask", data={"path": "big.mp4", **QUESTION}), 413, "too_large")
    assert "big.mp4: has 0.6 MB" in message
    big.unlink()


def test_long_videos_and_many_pixels(client: httpx.Client, tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    long = tiny_video(tmp_path / "long.mp4", frames=40)
    message = refused(client.post("/v1/ask", files={"video": long.open("rb")}, data=QUESTION), 422, "too_long")
    assert message == "upload.mp4: lasts 5 s: expected at most 3 s (--max-duration). Cut it." or message.startswith(
        "long.mp4: lasts 5 s: expected at most 3 s (--max-duration)"
    )
    wide = tiny_video(tmp_path / "wide.mp4", size=(640, 480), frames=4)
    message = refused(client.post("/v1/ask", files={"video": wide.open("rb")}, data=QUESTION), 422, "too_many_pixels")
    assert "wide.mp4: has 640x480 pixels: expected at most 0.1 megapixels (--max-megapixels)" in message
    picture = io.BytesIO()
    Image.new("RGB", (20_000, 20_000)).save(picture, "PNG")  # 400 megapixels in half a MB: a decompression bomb
    if len(picture.getvalue()) < 500_000:
        sent = client.post("/v1/ask", files={"video": picture.getvalue()}, data=QUESTION)
        assert sent.status_code == 422
        assert "pixels" in sent.text


def test_compressed_bodies_are_not_unpacked(client: httpx.Client, strict: RunningServer) -> None:
    before = strict.memory_mb()
    bomb = gzip.compress(bytes(300 * 2**20))
    headers = {"Content-Encoding": "gzip", "Content-Type": "multipart/form-data; boundary=b"}
    message = refused(client.post("/v1/ask", content=bomb, headers=headers), 415, "encoded")
    assert message == "Content-Encoding is 'gzip': bodies must not be compressed."
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.mp4", bytes(50 * 2**20))
    sent = client.post("/v1/ask", files={"video": ("a.zip", archive.getvalue())}, data=QUESTION)
    refused(sent, 422, "not_a_video")
    assert strict.memory_mb() < before + 100


def test_bodies_of_other_types(client: httpx.Client) -> None:
    message = refused(client.post("/v1/ask", json={"path": "videos/0.mp4", **QUESTION}), 415, "not_a_form")
    assert message.startswith("Content-Type is 'application/json': expected a form (multipart/form-data or")
    kind = {"Content-Type": "multipart/form-data"}
    refused(client.post("/v1/ask", content=b"abc", headers=kind), 400, "bad_request")
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert client.post("/v1/ask", content=b"--c\r\nno form", headers=kind).status_code in (400, 422)
    assert "video" in refused(client.post("/v1/ask", data={"video": "text", **QUESTION}), 422, "invalid")


def test_wrong_fields_are_named(client: httpx.Client) -> None:
    path = {"path": "videos/0.mp4"}
    assert refused(client.post("/v1/ask", data=path), 422, "invalid") == "question: field required"
    message = refused(client.post("/v1/ask", data={**path, "question": "  "}), 422, "invalid")
    assert message == "question: expected a text that is not empty"
    assert "at most 1000 characters" in refused(
        client.post("/v1/ask", data={**path, "question": "x" * 1001}), 422, "invalid"
    )
    assert "0 videos are given: expected one of" in refused(client.post("/v1/ask", data=QUESTION), 422, "invalid")
    both = client.post("/v1/ask", data={**path, **QUESTION}, files={"video": b"x"})
    assert "2 videos are given" in refused(both, 422, "invalid")
    late = client.post("/v1/ask", data={**path, **QUESTION, "start_s": 1, "end_s": 1})
    assert refused(late, 422, "invalid") == "end_s is 1 and start_s is 1: expected a later end."
    late = client.post("/v1/ask", data={**path, **QUESTION, "start_s": 99})
    assert "videos/0.mp4: start_s is 99, but the video lasts 2.0 s" in refused(late, 422, "not_a_video")
    few = client.post("/v1/choose", data={**path, **QUESTION, "options": ["red"]})
    assert refused(few, 422, "invalid").startswith("options: list should have at least 2 items")
    for value in ("nan", "inf", "-1", "x"):
        assert client.post("/v1/ask", data={**path, **QUESTION, "start_s": value}).status_code == 422
    assert client.get("/v1/ask").status_code == 405
    assert client.get("/v1/ask").headers["allow"] == "POST"
    assert refused(client.get("/nothing"), 404, "not_found") == "Not Found."


def test_files_outside_the_roots_links_and_urls(client: httpx.Client, served_project: Path, tmp_path: Path) -> None:
    data = served_project / "data"
    secret = served_project / "secret.mp4"
    secret.write_bytes((data / "videos" / "0.mp4").read_bytes())
    links = {"link.mp4": secret, "folder": served_project, "own.mp4": data / "videos" / "0.mp4", "loop": data / "loop"}
    for name, target in links.items():
        (data / name).unlink(missing_ok=True)
        (data / name).symlink_to(target)
    os.mkfifo(data / "pipe.mp4")
    wrong = ["../secret.mp4", "videos/../../secret.mp4", str(secret), "/etc/passwd", "folder/secret.mp4", "link.mp4"]
    wrong += ["own.mp4", "loop", "loop/a.mp4", "videos", ".", "pipe.mp4", "gone.mp4", "a\0b", "x" * 4000, "~/a.mp4"]
    wrong += ["videos//../0.mp4", "..%2fsecret.mp4", "..\\secret.mp4", "/proc/self/environ", "/dev/zero"]
    for path in wrong:
        message = refused(client.post("/v1/ask", data={"path": path, **QUESTION}), 404, "not_found")
        assert str(served_project) not in message or str(served_project) in path
        assert "root:" not in message
    for url in ("http://127.0.0.1:1/a.mp4", "file:///etc/passwd", "ftp://a/b.mp4", "data:video/mp4;base64,AAAA"):
        message = refused(client.post("/v1/ask", data={"path": url, **QUESTION}), 422, "url")
        assert "URLs are not fetched. Upload the file as `video`." in message
    for name in (*links, "pipe.mp4"):
        (data / name).unlink()
    secret.unlink()


def test_no_url_inside_a_playlist_is_fetched(client: httpx.Client, served_project: Path) -> None:
    """FFmpeg opens what an HLS playlist, a concat list or an SDP names; the server must not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts"
        target = served_project / "data" / "videos" / "0.mp4"
        lists = [
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{address}'\n",
            f"ffconcat version 1.0\nfile '{target}'\n",
            f"#EXTM3U\n#EXTINF:9,\nfile://{target}\n#EXT-X-ENDLIST\n",
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
        ]
        for text in lists:
            sent = client.post("/v1/ask", files={"video": ("list.m3u8", text.encode())}, data=QUESTION)
            refused(sent, 422, "not_a_video")
        with pytest.raises(TimeoutError):
            listener.accept()


def test_too_many_requests_at_once(client: httpx.Client, strict: RunningServer, served_project: Path) -> None:
    def send(_: int) -> httpx.Response:
        with strict.client() as own:
            return own.post("/v1/ask", data={"path": "videos/0.mp4", "explain": "true", **QUESTION})

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(send, range(36)))
    codes = {each.status_code for each in answers}
    assert codes == {200, 429}
    late = next(each for each in answers if each.status_code == 429)
    assert refused(late, 429, "too_many_requests") == "2 requests run already (--max-concurrent). Try again."
    assert late.headers["Retry-After"] == "1"
    assert client.post("/v1/ask", data={"path": "videos/0.mp4", **QUESTION}).status_code == 200


def received(sock: socket.socket) -> bytes:
    found = b""
    sock.settimeout(10)
    while chunk := sock.recv(65536):
        found += chunk
    return found


def test_slow_clients(strict: RunningServer, client: httpx.Client) -> None:
    host, port = strict.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as silent, socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /v1/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
        for _ in range(30):  # the head of a request, byte by byte
            time.sleep(0.1)
            try:
                slow.sendall(b"a")
            except OSError:
                break
        assert received(slow) == b""
        assert received(silent) == b""
    with socket.create_connection((host, int(port))) as body:
        head = f"POST /v1/ask HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 500\r\n"
        body.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode())
        answer = received(body).decode()
    assert answer.startswith("HTTP/1.1 408 Request Timeout")
    assert "The body did not arrive within 2 s (--upload-timeout)." in answer
    assert client.get("/ready").status_code == 200


def test_broken_requests_and_clients_that_leave(strict: RunningServer, client: httpx.Client) -> None:
    host, port = strict.address.removeprefix("http://").split(":")
    for text in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/ask HTTP/1.1\r\n\r\n", b"\0" * 70_000):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(text)
            assert not received(sock).startswith(b"HTTP/1.1 5")
    for _ in range(10):
        with socket.create_connection((host, int(port))) as sock:
            head = f"POST /v1/ask HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {KEY}\r\n"
            sock.sendall(
                f"{head}Content-Length: 900\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode()
            )
    assert client.post("/v1/ask", data={"path": "videos/0.mp4", **QUESTION}).status_code == 200
    assert not [each for each in strict.records() if each["level"] in ("error", "critical")]


def test_the_key(strict: RunningServer) -> None:
    with httpx.Client(base_url=strict.address, trust_env=False) as nobody:
        for path in ("/v1/info", "/metrics"):
            sent = nobody.get(path)
            assert "CLIPBERT_API_KEY" in refused(sent, 401, "no_key")
            assert sent.headers["WWW-Authenticate"] == "Bearer"
        assert refused(nobody.post("/v1/ask", data=QUESTION), 401, "no_key")
        wrong = {"Authorization": "Bearer 0123456789abcdef-Secret"}
        assert nobody.get("/v1/info", headers=wrong).status_code == 401
        for path in ("/health", "/ready", "/openapi.json", "/docs", "/"):
            assert nobody.get(path).status_code == 200, path
        assert nobody.post("/v1/session", data={"key": "wrong"}).status_code == 401
        answer = nobody.post("/v1/session", data={"key": KEY})
        assert answer.status_code == 204
        assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
        assert KEY not in answer.headers["set-cookie"]
        assert nobody.get("/v1/info").status_code == 200  # with the cookie
        security = nobody.get("/openapi.json").json()["paths"]["/v1/ask"]["post"]["security"]
        assert security == [{"key": []}]
    assert KEY not in strict.log.read_text()


def test_pages_of_other_sites_and_other_names(client: httpx.Client) -> None:
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ):
        refused(client.get("/v1/info", headers=headers), 403, "wrong_origin")
    refused(client.get("/v1/info", headers={"Host": "evil.example"}), 403, "wrong_host")
    assert client.get("/v1/info", headers={"Host": "videos.example.org"}).status_code == 200
    own = str(client.base_url).rstrip("/")
    assert client.get("/v1/info", headers={"Origin": own, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    sent = client.get("/health")
    assert "default-src 'self'" in sent.headers["content-security-policy"]
    assert sent.headers["x-content-type-options"] == "nosniff"
