"""Settings of the server: the options of `clipbert serve`."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from clipbert.errors import ClipBertError

API_KEY = "CLIPBERT_API_KEY"
SHORTEST_KEY = 16
MB = 10**6


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        upload_mb: size of a body, and of a file that a request names, in MB (10^6 bytes).
        upload_s: seconds in which a body must arrive.
        header_s: seconds in which the head of a request must arrive.
        duration_s: length of a video in seconds.
        megapixels: width times height of a picture or a video.
        concurrent: requests that are worked on or wait at one time.
        request_s: seconds from the end of the upload to the answer.
        batch: requests in one forward pass.
        batch_wait_ms: for which a forward pass waits for more requests, if others are being decoded.
    """

    upload_mb: float = 200.0
    upload_s: float = 60.0
    header_s: float = 10.0
    duration_s: float = 600.0
    megapixels: float = 16.0
    concurrent: int = 64
    request_s: float = 30.0
    batch: int = 16
    batch_wait_ms: float = 5.0


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens, what it may read, and its limits.

    Attributes:
        host, port: address; port 0 takes a free one.
        roots: folders below which requests may name files.
        hosts: names by which clients may call the server, in addition to `host` and the loopback names.
        api_key: that requests must have; empty: none is needed.
        poll_s: seconds between two looks at the registry.
        drain_s: seconds for the requests that run when the server is stopped.
        decoders: processes that decode files; None: one for each core, at most four.
        index: folder of the search index.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    roots: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()
    api_key: str = ""
    limits: Limits = field(default_factory=Limits)
    poll_s: float = 10.0
    drain_s: float = 30.0
    decoders: int | None = None
    index: Path | None = None

    def __post_init__(self) -> None:
        """Check the address and the key.

        Raises:
            ClipBertError: others could use the server without a key, or the key can be guessed.
        """
        if not self.api_key and not self.local:
            raise ClipBertError(
                f"--host {self.host}: other machines can call this address, so an API key is needed: set the "
                f"environment variable {API_KEY}, for example to the output of `openssl rand -hex 24`."
            )
        if self.api_key and len(self.api_key) < SHORTEST_KEY:
            raise ClipBertError(f"{API_KEY} has {len(self.api_key)} characters: expected {SHORTEST_KEY} or more.")
        if not self.api_key.isascii() or any(letter.isspace() for letter in self.api_key):
            raise ClipBertError(f"{API_KEY}: expected ASCII characters without spaces, since it is sent in a header.")

    @property
    def local(self) -> bool:
        """Whether only this machine can call the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
