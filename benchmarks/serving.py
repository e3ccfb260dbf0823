"""How fast does `clipbert serve` answer, compared with the model alone in batches?

    python -m benchmarks.serving [--model DIR] [--videos 64] [--seconds 20] [--clients 24] [--json OUT]

The model alone asks a question about each of many different videos: decoded by the processes of the decoder pool, then
encoded and answered in batches of 16, with decoding of the next batch meanwhile ("files"); or with kept visual tokens
("kept"). The server gets the same questions about the same files from clients in another process, which send the next
request when the last one is answered. Both run one after another in short rounds, so that other programs on the machine
slow down both. Then clients send at half of the reached rate, and the latencies are reported; then the time from the
start of the command to readiness, and memory.

Without `--model`, an untrained model of the preset `tiny` answers. Videos are 10 s, 320x240, h264.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np

from benchmarks.answer_latency import QUESTION, SET_AT_START, figures, make_model

SECONDS, RATE, SIZE = 10, 25, (320, 240)
BATCH, ENCODED = 16, 4
WANTED_SHARE, WANTED_READY_S = 0.8, 10.0


def make_videos(folder: Path, count: int) -> list[Path]:
    """Write a few videos of moving colors, and copies of them with other content."""
    folder.mkdir(parents=True)
    width, height = SIZE
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    encoded = []
    for number in range(ENCODED):
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for step in range(SECONDS * RATE):
                waves = [np.sin(x + y * scale + step / 15 + number) for scale in (0.5, 1.0, 1.5)]
                picture = (127.5 * (np.stack(waves, axis=2) + 1)).astype(np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
        encoded.append(path)
    found: list[Path] = []
    while len(found) < count:
        found += renew(encoded, folder.with_name("copies"), 10**9 + len(found))
    return found[:count]


class ModelAlone:
    """The pipeline with batches and decoding ahead, without a server."""

    def __init__(self, folder: Path) -> None:
        from clipbert import pipeline

        self.pipeline = pipeline(None, folder)
        self.threads = ThreadPoolExecutor(BATCH)

    def forget(self) -> None:
        """Drop kept frames and tokens."""
        from clipbert.sampling.video_input import forget_decoded

        forget_decoded()
        self.pipeline.forget()

    def rate(self, videos: Sequence[Path], kept: bool) -> float:
        """Return answers per second, about each video once."""
        from clipbert.inference.answer_batch import answer_batch

        if not kept:
            self.forget()
        start = time.perf_counter()
        ahead = self.threads.map(self.pipeline.prepare, videos)
        batch: list[Any] = []
        for number, prepared in enumerate(ahead, start=1):
            batch.append(prepared)
            if len(batch) == BATCH or number == len(videos):
                embeds = self.pipeline.encode_prepared(batch)
                answer_batch(self.pipeline, embeds, [{"question": QUESTION, "top": 5}] * len(batch))
                batch = []
        return len(videos) / (time.perf_counter() - start)


class Server:
    """`clipbert serve` as a process."""

    def __init__(self, root: Path, model: Path) -> None:
        self.log = root / "serve.log"
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "300"}
        command = [sys.executable, "-m", "clipbert", "serve", "--port", "0", "--model", f"open_qa={model}"]
        start = time.perf_counter()
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=file, stderr=file)
        while (found := re.search(r"at (http://\S+) \(", self.log.read_text())) is None:
            time.sleep(0.02)
        self.address = found[1]
        with httpx.Client(base_url=self.address, trust_env=False) as client:
            while client.get("/ready").status_code != 200:
                time.sleep(0.1)
        self.ready_s = time.perf_counter() - start

    def memory_mb(self) -> float:
        """Return the proportional memory of the server and its decoders."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        total = 0
        for number in (str(self.process.pid), *children):
            text = Path(f"/proc/{number}/smaps_rollup").read_text()
            total += int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0])
        return total / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


async def closed_loop(address: str, videos: Sequence[str], clients: int) -> list[float]:
    """Ask about each video once, with a number of requests at a time; return the seconds of each."""
    waiting = list(reversed(videos))
    times: list[float] = []
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=120, trust_env=False, limits=limits) as client:

        async def work() -> None:
            while waiting:
                path = waiting.pop()
                start = time.perf_counter()
                sent = await client.post("/v1/ask", data={"path": path, "question": QUESTION})
                sent.raise_for_status()
                times.append(time.perf_counter() - start)

        await asyncio.gather(*(work() for _ in range(clients)))
    return times


async def open_loop(address: str, videos: Sequence[str], rate: float, seconds: float) -> list[float]:
    """Send requests at a rate, whether or not earlier ones are answered; return the seconds of each."""
    times: list[float] = []
    chance = np.random.default_rng(0)
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=address, timeout=120, trust_env=False, limits=limits) as client:

        async def one(path: str) -> None:
            start = time.perf_counter()
            sent = await client.post("/v1/ask", data={"path": path, "question": QUESTION})
            sent.raise_for_status()
            times.append(time.perf_counter() - start)

        tasks, end, number = [], time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            tasks.append(asyncio.create_task(one(videos[number % len(videos)])))
            number += 1
            await asyncio.sleep(chance.exponential(1 / rate))
        await asyncio.gather(*tasks)
    return times


def renew(videos: Sequence[Path], folder: Path, number: int) -> list[Path]:
    """Copy videos with other content (a trailing box), so that nothing is kept of them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for path in videos:
        copy = folder / f"{number}-{path.name}"
        shutil.copyfile(path, copy)
        with copy.open("ab") as file:
            file.write((16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big"))
        found.append(copy)
    return found


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return all figures."""
    model = (options.model or make_model(scratch / "model")).resolve()
    data = scratch / "data"
    videos = make_videos(data / "base", options.videos)
    alone = ModelAlone(model)
    alone.rate(videos[:BATCH], kept=False)
    starts = []
    for _ in range(3):
        server = Server(scratch, model)
        starts.append(server.ready_s)
        server.stop()
    server = Server(scratch, model)
    names = lambda files: [str(path.relative_to(data)) for path in files]  # noqa: E731
    asyncio.run(closed_loop(server.address, names(videos), options.clients))
    rates: dict[str, list[float]] = {f"{who} {what}": [] for what in ("files", "kept") for who in ("alone", "server")}
    for number in range(options.rounds):
        rates["alone files"].append(alone.rate(videos, kept=False))
        fresh = names(renew(videos, data / "new", number))
        start = time.perf_counter()
        asyncio.run(closed_loop(server.address, fresh, options.clients))
        rates["server files"].append(len(fresh) / (time.perf_counter() - start))
        rates["alone kept"].append(alone.rate(videos * 4, kept=True))
        start = time.perf_counter()
        asyncio.run(closed_loop(server.address, fresh * 4, options.clients))
        rates["server kept"].append(4 * len(fresh) / (time.perf_counter() - start))
    half = float(np.median(rates["server files"])) / 2
    count = round(half * options.seconds) + 20
    fresh = []
    for number in range(options.rounds, options.rounds + count // len(videos) + 1):
        fresh += names(renew(videos, data / "half", number))
    times = asyncio.run(open_loop(server.address, fresh, half, options.seconds))
    memory = server.memory_mb()
    server.stop()
    shares = {
        what: round(float(np.median(np.array(rates[f"server {what}"]) / np.array(rates[f"alone {what}"]))), 3)
        for what in ("files", "kept")
    }
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "load": [round(each, 1) for each in os.getloadavg()],
        "per_second": {name: round(float(np.median(values)), 1) for name, values in rates.items()},
        "share": shares,
        "half_load": {"per_second": round(half, 1), "requests": len(times)}
        | {"ms": figures([1000 * each for each in times])},
        "ready_s": [round(each, 1) for each in starts],
        "memory_mb": round(memory),
    }


def main() -> None:
    """Print the figures, write the JSON, and exit with code 1 where a wanted figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of an open_qa model; default: untrained, preset tiny")
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=20.0, help="of half load")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE") != os.environ.get(SET_AT_START):
        os.environ[SET_AT_START] = os.environ["OMP_WAIT_POLICY"]  # OpenMP reads it when torch is imported: start again
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.serving", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, Path(scratch))
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    missed = []
    if result["share"]["files"] < WANTED_SHARE:
        missed.append(f"a share of {WANTED_SHARE:g} for files")
    if float(np.median(result["ready_s"])) > WANTED_READY_S:
        missed.append(f"ready in {WANTED_READY_S:g} s")
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
