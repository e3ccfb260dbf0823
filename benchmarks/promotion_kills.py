"""Kills promote and rollback at random system calls that write, and checks that everything agrees afterwards.

A small library, preloaded into this process, counts the calls that write (write, pwrite, fsync, rename, unlink,
truncate, mkdir, and opening a file that is created) and sends SIGKILL before or after the chosen one. Each trial
restores a project with two versions in an embedded MLflow store, kills a forked child in the middle of `promote` or
`rollback`, runs the next command (promote, rollback, register or history) in another child, and checks that aliases,
ledger, tags and file agree.

    python benchmarks/promotion_kills.py --kills 100

Needs a C compiler.
"""

import argparse
import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests" / "support"
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long passed, chosen = -1;
static int armed;
void kills_arm(long point) { passed = 0; chosen = point; armed = 1; }
long kills_passed(void) { return passed; }
static void pass(void) {
    if (armed && __sync_fetch_and_add(&passed, 1) == chosen) kill(getpid(), SIGKILL);
}
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define WRAP(type, name, parameters, arguments) \
    type name parameters { REAL(name); pass(); type result = real arguments; pass(); return result; }
#define WRAP_FD(type, name, parameters, arguments) \
    type name parameters { REAL(name); if (fd <= 2) return real arguments; \
        pass(); type result = real arguments; pass(); return result; }
WRAP_FD(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n))
WRAP_FD(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))
WRAP_FD(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o))
WRAP_FD(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o))
WRAP_FD(int, fsync, (int fd), (fd))
WRAP_FD(int, fdatasync, (int fd), (fd))
WRAP_FD(int, ftruncate, (int fd, off_t n), (fd, n))
WRAP_FD(int, ftruncate64, (int fd, off64_t n), (fd, n))
WRAP(int, rename, (const char *a, const char *b), (a, b))
WRAP(int, unlink, (const char *a), (a))
WRAP(int, rmdir, (const char *a), (a))
WRAP(int, mkdir, (const char *a, mode_t m), (a, m))
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0; va_end(rest); \
        REAL(name); int creates = (flags & O_CREAT) != 0; \
        if (creates) pass(); int fd = real(path, flags, mode); if (creates) pass(); return fd; }
OPEN(open)
OPEN(open64)
"""


def start_with_shim() -> ctypes.CDLL:
    """Return the library that kills; starts this program again with it preloaded when it is not."""
    if "CLIPBERT_KILLS" not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="promotion-kills-"))
        (folder / "kills.c").write_text(SHIM)
        library = folder / "kills.so"
        command = ["cc", "-O1", "-shared", "-fPIC", "-w", "-o", str(library), str(folder / "kills.c"), "-ldl"]
        subprocess.run(command, check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), "CLIPBERT_KILLS": str(library)}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    os.environ.pop("LD_PRELOAD", None)
    return ctypes.CDLL(os.environ["CLIPBERT_KILLS"])


def main() -> None:
    """Run the trials, print one table, and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="how many trials")
    parser.add_argument("--seed", type=int, default=0, help="chooses commands, points and next commands")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    options = parser.parse_args()
    shim = start_with_shim()
    shim.kills_arm.argtypes, shim.kills_passed.restype = [ctypes.c_long], ctypes.c_long
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    sys.path.insert(0, str(TESTS))
    from killed_project import COMMANDS, assert_safe, make_project
    from write_points import in_child

    folder = Path(tempfile.mkdtemp(prefix="promotion-kills-"))
    project = make_project(folder)
    counts: dict[str, int] = {}
    for command in COMMANDS:
        project.restore(command)
        out = folder / "count"

        def count(command: str = command, out: Path = out) -> None:
            shim.kills_arm(-1)
            project.run(command)
            passed = shim.kills_passed()
            out.write_text(str(passed))

        assert in_child(count) == 0
        counts[command] = int(out.read_text())
        print(f"{command}: {counts[command]} points before or after a system call that writes", flush=True)

    generator = random.Random(options.seed)
    rows: list[dict[str, Any]] = []
    start = time.monotonic()
    for trial in range(options.kills):
        command = list(COMMANDS)[trial % len(COMMANDS)]
        point = generator.randrange(counts[command])
        following = generator.choice(["promote", "rollback", "register", "history"])
        project.restore(command)

        def killed(command: str = command, point: int = point) -> None:
            shim.kills_arm(point)
            project.run(command)

        def checked(command: str = command, following: str = following) -> None:
            project.follow(following)
            assert_safe(project.root)

        died = in_child(killed) == -9
        agreed = in_child(checked) == 0
        ledger = project.outcome(command)
        rows.append(
            {"command": command, "point": point, "next": following, "killed": died, "agree": agreed, "ledger": ledger}
        )
        print(
            f"{trial + 1:3d} {command:8s} killed at {point:3d}, next {following:8s}: {ledger}"
            f"{'' if died else ' NOT KILLED'}{'' if agreed else ' DISAGREE'}",
            flush=True,
        )

    died, agree = sum(row["killed"] for row in rows), sum(row["agree"] for row in rows)
    ends = Counter((row["command"], row["ledger"]) for row in rows)
    print(f"\n{'command':10s} {'killed change':16s} {'trials':>6s}")
    for (command, end), trials in sorted(ends.items()):
        print(f"{command:10s} {end:16s} {trials:6d}")
    print(
        f"killed {died} of {len(rows)}; aliases, ledger, tags and file agree in {agree} of {len(rows)}; "
        f"{time.monotonic() - start:.0f} s"
    )
    if options.out:
        options.out.write_text(json.dumps({"points": counts, "agree": agree, "trials": rows}, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if agree == died == len(rows) else 1)


if __name__ == "__main__":
    main()
