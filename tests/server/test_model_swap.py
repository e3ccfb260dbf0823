"""The server follows the champion of a real registry under load, and no request fails."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from clipbert_server import RunningServer, running_server
from mlflow_server import MlflowServer
from small_releases import releaser, save_model, scored_items

from clipbert import pipeline
from clipbert.release.aliases import CHAMPION
from clipbert.release.connection import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = ["a red square", "a blue circle"]
SWAP_S = 90.0


@pytest.fixture(params=["embedded", "server"])
def registry(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Any]]:
    """A project with two registered versions, and the store's client; the first version is the champion."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    root = tmp_path / "project"
    (root / "mlflow").mkdir(parents=True)
    tiny_video(root / "data" / "videos" / "a.mp4")
    server = MlflowServer(tmp_path) if request.param == "server" else None
    if server is not None:
        server.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    try:
        release = releaser(root, lambda task, seed: save_model(root / f"model-{seed}", task, seed))
        for seed in (0, 1):
            release(seed, scored_items(30))
        client = open_store(root).client
        client.set_registered_model_alias("clipbert-retrieval", CHAMPION, "1")
        yield root, client
    finally:
        if server is not None:
            server.stop()


class Load:
    """Requests from several threads until it is stopped: (status, model, scores) of each."""

    def __init__(self, server: RunningServer, threads: int = 3) -> None:
        self.answers: list[tuple[int, str, list[float]]] = []
        self._server, self._stop = server, threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with self._server.client() as client:
            while not self._stop.is_set():
                try:
                    sent = client.post("/v1/match", data={"path": "videos/a.mp4", "texts": TEXTS})
                    found = sent.json()
                    rows = sorted(found.get("texts", []), key=lambda row: row["index"])
                    name = found.get("model", {}).get("name", sent.text)
                    self.answers.append((sent.status_code, name, [row["score"] for row in rows]))
                except httpx.HTTPError as error:
                    self.answers.append((0, repr(error), []))

    def wait_for(self, name: str) -> None:
        """Wait until the newest answers are from a model."""
        deadline = time.monotonic() + SWAP_S
        start = len(self.answers)
        while len(self.answers) < start + 6 or {model for _, model, _ in self.answers[-6:]} != {name}:
            assert time.monotonic() < deadline, self._server.log.read_text()[-3000:]
            time.sleep(0.05)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_new_champion_is_used_without_a_failed_request(registry: tuple[Path, Any]) -> None:
    root, client = registry
    expected = {}
    for version, seed in (("1", 0), ("2", 1)):
        search = pipeline(None, root / f"model-{seed}")
        embeds = search.encode([root / "data" / "videos" / "a.mp4"])
        expected[f"models:/clipbert-retrieval/{version} (champion)"] = search.match(embeds, TEXTS)
    first, second = expected
    with running_server(root, "--poll", "0.5") as server:
        load = Load(server)
        try:
            load.wait_for(first)
            client.set_registered_model_alias("clipbert-retrieval", CHAMPION, "2")
            load.wait_for(second)
            client.set_registered_model_alias("clipbert-retrieval", CHAMPION, "1")  # a rollback
            load.wait_for(first)
        finally:
            load.stop()
        assert {status for status, _, _ in load.answers} == {200}, [each for each in load.answers if each[0] != 200][:5]
        assert {name for _, name, _ in load.answers} == {first, second}
        for _, name, scores in load.answers:
            assert scores == pytest.approx(expected[name], abs=1e-4)
        with server.client() as http:
            metrics = http.get("/metrics").text
            assert 'clipbert_model_swaps_total{result="done",route="match"} 2.0' in metrics
            assert f'clipbert_model{{name="{first}",route="match"}} 1.0' in metrics
            assert f'name="{second}"' not in metrics
        swaps = [each for each in server.records() if each["message"] == "model replaced"]
        assert [(each["before"], each["model"]) for each in swaps] == [(first, second), (second, first)]


def test_a_damaged_champion_or_a_lost_registry_changes_nothing(registry: tuple[Path, Any]) -> None:
    root, client = registry
    name = "models:/clipbert-retrieval/1 (champion)"
    if not (root / "mlflow" / "mlflow.db").is_file():
        pytest.skip("the files of the versions are on a server")
    with running_server(root, "--poll", "0.2") as server, server.client() as http:
        for path in (root / "mlflow").rglob("model.safetensors"):
            path.write_bytes(path.read_bytes()[:-50] + bytes(50))
        client.set_registered_model_alias("clipbert-retrieval", CHAMPION, "2")
        deadline = time.monotonic() + SWAP_S
        while not any(each["message"] == "model not replaced" for each in server.records()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (root / "mlflow" / "mlflow.db").rename(root / "mlflow" / "gone.db")
        time.sleep(1)
        sent = http.post("/v1/match", data={"path": "videos/a.mp4", "texts": TEXTS})
        assert (sent.status_code, sent.json()["model"]["name"]) == (200, name)
        assert http.get("/ready").status_code == 200
