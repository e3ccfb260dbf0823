"""PostgreSQL server of the tests' own, from the Debian package."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.servers import free_port

MISSING = "needs a PostgreSQL server: apt-get install postgresql"
PASSWORD = "planted-postgres-superuser"


@dataclass(frozen=True)
class Postgres:
    """Running PostgreSQL server.

    Attributes:
        environment: libpq's variables for its superuser.
    """

    programs: Path
    port: int
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGPASSWORD": PASSWORD,
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
        }

    def query(self, sql: str, database: str = "postgres") -> str:
        """Return the rows that a query yields, one a line."""
        command = [self.programs / "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", sql, database]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()

    def dump(self) -> bytes:
        """Return everything that all databases contain, as SQL."""
        return subprocess.run(
            [self.programs / "pg_dumpall"], env=self.environment, capture_output=True, check=True
        ).stdout


def find_postgres() -> Path | None:
    """Return the folder of the newest PostgreSQL server's programs; None if there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("initdb")
    return debian[-1].parent if debian else Path(found).resolve().parent if found else None


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[Postgres]:
    """Start a server on a free port with an empty database; stop it at the end. Its log is in `folder`."""
    programs = find_postgres()
    assert programs is not None, MISSING
    # PostgreSQL refuses to run as root, and another user cannot enter pytest's temporary folders.
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    log = folder / "postgres.log"
    with tempfile.TemporaryDirectory(prefix="clipbert-postgres-", ignore_cleanup_errors=True) as home:
        password = Path(home, "password")
        password.write_text(PASSWORD)
        for path in (home, password):
            os.chown(path, user.pw_uid, user.pw_gid)
        data = Path(home, "data")
        options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        locale = ["--encoding=UTF8", "--locale=C.UTF-8"]
        initdb = [programs / "initdb", "--pgdata", data, *options, *locale]
        made = subprocess.run(initdb, cwd=home, capture_output=True, text=True, **identity)
        assert made.returncode == 0, made.stdout + made.stderr
        server = Postgres(programs, free_port(), log)
        settings = {"fsync": "off", "shared_buffers": "32MB", "listen_addresses": "127.0.0.1"}
        settings |= {"port": str(server.port), "unix_socket_directories": home}
        command = [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=home, stdout=output, stderr=output, **identity)
        try:
            ready = [programs / "pg_isready", "--quiet", "--timeout=1"]
            for _ in range(300):
                if process.poll() is not None:
                    break
                if subprocess.run(ready, env=server.environment).returncode == 0:
                    break
            assert process.poll() is None, log.read_text()
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # ends connections and shuts down
            process.wait(30)
