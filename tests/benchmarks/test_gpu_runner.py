"""The GPU kit's runner: results kept at once, a rerun that resumes, time limits, parts that fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import runner
from benchmarks.gpu.parts import Measure, Part
from benchmarks.gpu.runner import Kit, code_digest, run_limited

WRITE = """
import json, pathlib, sys
pathlib.Path(sys.argv[2]).open("a").write("x")
pathlib.Path(sys.argv[1]).write_text(json.dumps({"speed": 3.0}))
"""
FAIL = "import sys; print('first line'); sys.exit('no such kernel')"
HANG = """
import signal, subprocess, sys, time, pathlib
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
print("waiting", flush=True)
time.sleep(600)
"""


def speed(result: dict[str, Any]) -> list[Measure]:
    return [Measure("speed", result["speed"], "x", target=2.0)]


class Programs:
    """A folder with small parts, and a kit that runs them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.work = folder / "work"
        (self.work / "drawn-tiny").mkdir(parents=True)  # data that is there already
        path = os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setattr(runner, "GRACE_S", 0.2)

    def part(self, name: str, program: str, *arguments: str, limit_s: float = 60.0) -> Part:
        (self.folder / f"{name}.py").write_text(program)
        return Part(name, f"the part {name}", limit_s, (name, *arguments), (), speed)

    def writing(self, name: str) -> Part:
        return self.part(name, WRITE, "{json}", str(self.folder / f"{name}.runs"))

    def runs(self, name: str) -> int:
        path = self.folder / f"{name}.runs"
        return len(path.read_text()) if path.exists() else 0

    def kit(self, digest: str = "code", seconds: float = 600.0) -> Kit:
        return Kit(self.work, dry_run=True, deadline=time.monotonic() + seconds, digest=digest)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_rerun_resumes_with_what_is_not_finished(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = programs.writing("good"), programs.part("bad", FAIL)
    results = programs.kit().run([good, bad])
    assert [(row["name"], row["status"]) for row in results["parts"]] == [("good", "ok"), ("bad", "failed (1)")]
    assert results["parts"][0]["measures"] == [
        {"what": "speed", "value": 3.0, "unit": "x", "target": 2.0, "at_least": True, "met": True}
    ]
    assert "no such kernel" in results["parts"][1]["detail"]
    assert "first line" in capsys.readouterr().out
    assert json.loads((programs.work / "dry-run" / "gpu.json").read_text()) == results

    fixed = programs.writing("bad")
    results = programs.kit().run([good, fixed])
    assert [row["status"] for row in results["parts"]] == ["ok", "ok"]
    assert (programs.runs("good"), programs.runs("bad")) == (1, 1)

    programs.kit().run([good], again=True)
    assert programs.runs("good") == 2
    programs.kit(digest="other code").run([good])
    assert programs.runs("good") == 3


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_killed_with_its_processes(programs: Programs) -> None:
    pid = programs.folder / "child"
    hanging = programs.part("hanging", HANG, str(pid), limit_s=0.5)
    results = programs.kit().run([hanging, programs.writing("after")])
    assert [row["status"] for row in results["parts"]] == ["timeout", "ok"]
    assert "waiting" in results["parts"][0]["detail"]
    _wait_for_end(int(pid.read_text()))


def _wait_for_end(pid: int) -> None:
    """Wait until a killed process is gone or a zombie that nobody has read."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} lives")


@pytest.mark.slow
def test_a_result_that_cannot_be_read_is_a_failure(programs: Programs) -> None:
    silent = programs.part("silent", "print('done')")
    assert programs.kit().run([silent])["parts"][0]["status"].startswith("failed (its result cannot be read: FileNotF")


def test_nothing_starts_when_the_time_is_used_up(programs: Programs) -> None:
    results = programs.kit(seconds=5.0).run([programs.writing("late")])
    row = results["parts"][0]
    assert (row["status"], row["detail"], programs.runs("late")) == ("not run", "the time was used up", 0)


def test_without_a_gpu_only_a_dry_run_starts(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    kit = Kit(programs.work, dry_run=False, deadline=time.monotonic() + 60, digest="code")
    with pytest.raises(SystemExit, match=r"no GPU: .* --dry-run"):
        kit.run([programs.writing("part")])


def test_a_damaged_result_file_starts_over(programs: Programs) -> None:
    kit = programs.kit(seconds=5.0)
    kit.file.write_text("{")
    assert kit.run([programs.writing("part")])["parts"][0]["status"] == "not run"


def test_the_digest_is_that_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    first = code_digest(tmp_path, ("src",))
    (tmp_path / "src" / "note.txt").write_text("not code\n")
    assert code_digest(tmp_path, ("src",)) == first
    (tmp_path / "src" / "a.py").write_text("a = 2\n")
    assert code_digest(tmp_path, ("src",)) != first


@pytest.mark.slow
def test_what_a_part_leaves_behind_is_ended(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print(p.pid)"
    )
    status, _ = run_limited([sys.executable, "-c", program], tmp_path / "log", 60)
    assert status == "ok"
    _wait_for_end(int((tmp_path / "log").read_text()))


@pytest.mark.slow
def test_a_kit_that_is_stopped_ends_the_part_in_progress(tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "from benchmarks.gpu.runner import run_limited\n"
        "part = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "run_limited([sys.executable, '-c', part], pathlib.Path(sys.argv[1]), 600)\n"
    )
    log = tmp_path / "log"
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{repository}:{repository / 'src'}"}
    kit = subprocess.Popen([sys.executable, "-c", program, str(log)], env=environment)
    while not (log.exists() and log.read_text().endswith("\n")):
        assert kit.poll() is None
        time.sleep(0.05)
    kit.terminate()
    assert kit.wait(60) == 143
    _wait_for_end(int(log.read_text()))
