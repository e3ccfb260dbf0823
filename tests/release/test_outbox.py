import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from clipbert.errors import ClipBertError
from clipbert.release.outbox import RECORDS, Outbox, OutboxInUse, outbox_folder, pending_outboxes, remove_delivered


def log(outbox: Outbox, *steps: int) -> None:
    for step in steps:
        outbox.append("metrics", {"step": step, "values": {"loss": 1 / step}})


def waiting_steps(outbox: Outbox) -> list[int]:
    return [record.body["step"] for record in outbox.next_records(10**6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return outbox_folder(tmp_path, "a" * 32)


def run_python(program: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_records_wait_in_order_until_they_are_marked_and_outlive_the_process(folder):
    first = Outbox(folder)
    log(first, 1, 2, 3)
    first.append("status", {"status": "FAILED"})
    chunk = first.next_records(2)
    assert [(record.sequence, record.kind) for record in chunk] == [(1, "metrics"), (2, "metrics")]
    first.mark_delivered(chunk)
    first.close()
    second = Outbox(folder)
    log(second, 4)
    chunk = second.next_records(100)
    assert [record.sequence for record in chunk] == [3, 4, 5]
    assert [record.time_ms for record in chunk] == sorted(record.time_ms for record in chunk)
    assert second.steps == {"loss": 4}
    second.mark_delivered(chunk)
    assert second.empty
    assert second.next_records(100) == []
    second.close()


def test_last_line_torn_by_a_kill_is_cut_off_wherever_it_was_torn(folder):
    outbox = Outbox(folder)
    log(outbox, 1, 2)
    whole = (folder / RECORDS).stat().st_size
    log(outbox, 3)
    outbox.close()
    content = (folder / RECORDS).read_bytes()
    for torn in [*(content[:size] for size in range(whole, len(content))), content[:whole] + bytes(4096)]:
        (folder / RECORDS).write_bytes(torn)
        (found,) = pending_outboxes(folder.parents[2])
        assert found.values == 2
        again = Outbox(folder)
        assert again.damaged == []
        log(again, 30)
        assert waiting_steps(again) == [1, 2, 30]
        again.close()


def test_damaged_line_in_the_middle_is_passed_over_and_numbered(folder):
    outbox = Outbox(folder)
    log(outbox, 1, 2, 3, 4)
    outbox.close()
    lines = (folder / RECORDS).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"0.5", b"0.7")
    (folder / RECORDS).write_bytes(b"".join(lines))
    again = Outbox(folder)
    assert again.damaged == [2]
    assert waiting_steps(again) == [1, 3, 4]
    again.close()


def test_file_is_emptied_when_all_is_delivered_and_numbers_go_on(folder, monkeypatch):
    monkeypatch.setattr("clipbert.release.outbox.TRUNCATE_FROM_BYTES", 1000)
    outbox = Outbox(folder)
    log(outbox, *range(1, 100))
    while chunk := outbox.next_records(7):
        outbox.mark_delivered(chunk)
    assert (folder / RECORDS).stat().st_size == 0
    log(outbox, 100)
    outbox.close()
    again = Outbox(folder)
    assert [(record.sequence, record.body["step"]) for record in again.next_records(10)] == [(100, 100)]
    assert again.steps == {"loss": 100}
    again.close()


@pytest.mark.slow
def test_one_process_at_a_time(folder):
    program = """
        import sys, time
        from pathlib import Path
        from clipbert.release.outbox import Outbox
        outbox = Outbox(Path(sys.argv[1]))
        outbox.append("metrics", {"step": 1, "values": {"loss": 1.0}})
        print("mine", flush=True)
        time.sleep(60)
    """
    other = run_python(program, folder)
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(OutboxInUse, match=f"process {other.pid} is delivering it"):
        Outbox(folder)
    assert [found.held_by for found in pending_outboxes(folder.parents[2])] == [str(other.pid)]
    other.kill()
    other.wait()
    assert [found.held_by for found in pending_outboxes(folder.parents[2])] == [None]
    Outbox(folder).close()


@pytest.mark.slow
def test_worker_forked_from_a_training_does_not_keep_its_lock(folder):
    outbox = Outbox(folder)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"here")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(reading, 4)
        outbox.close()
        Outbox(folder).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.slow
def test_killed_process_loses_nothing_that_it_logged(folder):
    """SIGKILL at random moments of a process that logs as fast as it can."""
    program = """
        import os, sys
        from pathlib import Path
        from clipbert.release.outbox import Outbox
        outbox = Outbox(Path(sys.argv[1]))
        step = outbox.steps.get("loss", 0)
        while True:
            step += 1
            outbox.append("metrics", {"step": step, "values": {"loss": 1.0}})
            os.write(1, b"%d\\n" % step)
    """
    chance = random.Random(0)
    last = 0
    for _ in range(5):
        process = run_python(program, folder)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() / 5)
        process.kill()
        lines = process.stdout.read().splitlines()
        process.wait()
        last = max(last, *map(int, lines[-1:]))
        outbox = Outbox(folder)
        logged = waiting_steps(outbox)
        outbox.close()
        assert logged == list(range(1, len(logged) + 1))
        assert len(logged) >= last


@pytest.mark.slow
def test_full_disk_is_said_once_and_loses_nothing(folder):
    program = """
        import resource, signal, sys
        from pathlib import Path
        from clipbert.release.outbox import Outbox
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        outbox = Outbox(Path(sys.argv[1]))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        for step in range(1, 101):
            outbox.append("metrics", {"step": step, "values": {"loss": 1.0}})
        chunk = outbox.next_records(40)
        print([record.body["step"] for record in outbox.next_records(1000)] == list(range(1, 101)))
        chunk = outbox.next_records(5)
        outbox.mark_delivered(chunk)
        print([record.body["step"] for record in outbox.next_records(1000)] == list(range(6, 101)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        outbox.append("metrics", {"step": 101, "values": {"loss": 1.0}})
    """
    process = run_python(program, folder)
    out, err = process.communicate(timeout=60)
    assert out.split() == ["True", "True"]
    assert err.count("\n") == 1
    assert err.startswith(f"{folder}: cannot be written (File too large). The training continues; ")
    outbox = Outbox(folder)
    assert waiting_steps(outbox) == list(range(6, 102))
    outbox.close()


def test_place_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / "mlflow").write_text("a file where the folder should be")
    with pytest.raises(ClipBertError, match=r"mlflow/outbox/run: cannot be written \(Not a directory\)"):
        Outbox(outbox_folder(tmp_path, "run"))


def test_what_waits_is_listed_by_task_and_what_is_delivered_is_removed(tmp_path):
    for task, run_id, steps in (("retrieval", "a", 2), ("retrieval", "b", 0), ("open_qa", "c", 1)):
        outbox = Outbox(outbox_folder(tmp_path, run_id))
        outbox.write_run({"run_id": run_id, "run_name": f"run {run_id}", "task": task, "tracking_uri": "http://here"})
        log(outbox, *range(1, steps + 1))
        outbox.close()
    assert [found.text for found in pending_outboxes(tmp_path)] == ["2 values of run a", "1 value of run c"]
    assert [(found.run_id, found.tracking_uri) for found in pending_outboxes(tmp_path, "open_qa")] == [
        ("c", "http://here")
    ]
    remove_delivered(tmp_path, "retrieval")
    assert sorted(path.name for path in (tmp_path / "mlflow" / "outbox").iterdir()) == ["a", "c"]
