"""A server that speaks the part of the Hugging Face hub's API that uploads and downloads of a model use."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by id, each {path: content}, and what was asked for.

    Attributes:
        url: for HF_ENDPOINT.
        token: the only one that may write.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.url = ""


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

        def reply(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_POST(self) -> None:
            content = self.body()
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.reply({"error": "Invalid username or password."}, 401)
                return
            if self.path == "/api/repos/create":
                given = json.loads(content)
                name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
                hub.repositories.setdefault(name, {})
                hub.private[name] = bool(given.get("private") or given.get("visibility") == "private")
                self.reply({"url": f"{hub.url}/{name}", "id": name})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
                files = json.loads(content)["files"]
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in files
                ]
                self.reply({"files": modes})
            elif re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", self.path):
                objects = json.loads(content)["objects"]
                self.reply(
                    {
                        "transfer": "basic",
                        "objects": [
                            {**each, "actions": {"upload": {"href": f"{hub.url}/blobs/{each['oid']}"}}}
                            for each in objects
                        ],
                    }
                )
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
                self.commit(hub.repositories[found[1]], content)
                address = f"{hub.url}/{found[1]}/commit/{COMMIT}"
                self.reply({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})
            else:
                self.reply({"valid": True})  # the check of a card

        def commit(self, files: dict[str, bytes], content: bytes) -> None:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = hub.blobs[line["value"]["oid"]]

        def do_PUT(self) -> None:
            content = self.body()
            hub.blobs[self.path.rpartition("/")[2]] = content
            assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
            self.reply({})

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            if path == "/api/whoami-v2":
                self.reply({"name": "me", "type": "user"})
                return
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+|/tree/.*)?", path)
            if found and found[1] in hub.repositories:
                files = hub.repositories[found[1]]
                if (found[2] or "").startswith("/tree"):
                    self.reply([{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()])
                    return
                siblings = [{"rfilename": name} for name in files]
                self.reply({"id": found[1], "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
                return
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.*)", path)
            content = None if found is None else hub.repositories.get(found[1], {}).get(found[2])
            if content is None:
                self.reply({"error": "not found"}, 404, {"X-Error-Code": "EntryNotFound" if found else "RepoNotFound"})
                return
            etag = hashlib.sha256(content).hexdigest()
            self.reply(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        do_HEAD = do_GET

    return Handler


@contextlib.contextmanager
def hub_server(token: str = "hf_of_the_test") -> Iterator[Hub]:
    """Run the server on a free port of 127.0.0.1."""
    hub = Hub(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
