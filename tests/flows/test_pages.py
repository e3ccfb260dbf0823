"""The pages of `make ui` in a real browser, with every connection that it opens recorded."""

import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect_server import Prefect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; test_access.py checks the policy without a browser"),
]


@pytest.mark.parametrize(
    ("name", "expected"), [("Prefect", "Dashboard"), ("MLflow", "Welcome to MLflow")], ids=["prefect", "mlflow"]
)
def test_the_printed_link_opens_the_pages_and_they_call_no_other_host(
    prefect: Prefect, tmp_path: Path, name: str, expected: str
) -> None:
    record = tmp_path / "network.json"
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--log-net-log={record}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        prefect.link(name),
    ]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert expected in page
    text = record.read_text()
    log = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")
    addresses = [event.get("params", {}).get("url", "") for event in log["events"]]
    hosts = {urlsplit(url).netloc for url in addresses if urlsplit(url).scheme in ("http", "https", "ws", "wss")}
    assert hosts == {urlsplit(prefect.link(name)).netloc}
