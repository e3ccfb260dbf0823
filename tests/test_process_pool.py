"""Killable process pool: jobs that hang, crash or raise do not affect other jobs or the parent."""

import functools
import math
import operator
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from clipbert.process_pool import KillablePool, WorkerDied, WorkerError, WorkerMemory, WorkerTimeout, time_limit

pytestmark = pytest.mark.slow

# PyDLL keeps the GIL during the call: no Python code of that process runs again, signal handlers included
HANG_HOLDING_THE_GIL = "import ctypes; libc = ctypes.PyDLL(None)\nwhile True: libc.pause()"


@pytest.fixture
def pool():
    with KillablePool(2, timeout_s=20) as pool:
        yield pool


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_runs_functions_in_other_long_lived_processes(pool):
    pids = {pool.submit(os.getpid).result() for _ in range(10)}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    assert pool.submit(math.hypot, 3, 4).result() == 5
    assert pool.submit(sorted, [1, 3, 2], reverse=True).result() == [3, 2, 1]


def test_native_code_holding_the_gil_is_killed_on_time_and_others_go_on(pool):
    pool.submit(os.getpid).result()
    hung = pool.submit(exec, HANG_HOLDING_THE_GIL, timeout_s=0.5)
    others = [pool.submit(math.sqrt, i * i) for i in range(20)]
    assert [future.result() for future in others] == list(range(20))
    with pytest.raises(WorkerTimeout, match=r"exec: took longer than 0\.5 s and was killed"):
        hung.result()
    assert pool.submit(math.sqrt, 4).result() == 2


def test_hang_in_every_worker_is_recovered_from():
    with KillablePool(2, timeout_s=0.3) as pool:
        hung = [pool.submit(exec, HANG_HOLDING_THE_GIL) for _ in range(4)]
        assert all(isinstance(future.exception(), WorkerTimeout) for future in hung)
        assert pool.submit(math.sqrt, 4).result() == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", "was killed by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("import os; os._exit(3)", "ended with exit code 3"),
        ("import sys; sys.exit(4)", "ended with exit code 4"),
        ("import ctypes; ctypes.string_at(0)", "was killed by SIGSEGV"),
        ("import os; os.write(2, b'terminate called: bad_alloc'); os.abort()", "SIGABRT: terminate called: bad_alloc"),
    ],
)
def test_a_dead_process_is_reported_with_its_cause(pool, code, message):
    died = pool.submit(exec, code)
    alive = pool.submit(math.sqrt, 9)
    with pytest.raises(WorkerDied, match=message):
        died.result()
    assert alive.result() == 3
    assert pool.submit(math.sqrt, 4).result() == 2


def test_last_words_are_those_of_the_job_that_died():
    with KillablePool(1, timeout_s=20) as pool:
        pool.submit(os.write, 2, b"an earlier warning").result()
        error = pool.submit(os.abort).exception()
    assert "earlier" not in str(error)


def test_an_idle_worker_that_was_killed_is_replaced():
    with KillablePool(1, timeout_s=20) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        assert pool.submit(os.getpid).result() != pid


def test_exceptions_come_over_as_themselves_with_the_remote_traceback(pool):
    with pytest.raises(KeyError, match="x") as caught:
        pool.submit(operator.getitem, {}, "x").result()
    assert "In the worker process" in caught.value.__notes__[0]
    with pytest.raises(FileNotFoundError) as caught:
        pool.submit(os.stat, "/no/such/file").result()
    assert caught.value.filename == "/no/such/file"


def test_what_cannot_be_pickled_is_said_in_words(pool):
    class_in_exec = "class Odd(Exception): pass\nraise Odd('strange')"
    with pytest.raises(WorkerError, match="Odd: strange"):
        pool.submit(exec, class_in_exec).result()
    with pytest.raises((TypeError, WorkerError), match="pickle"):
        pool.submit(eval, "(i for i in range(3))").result()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pool.submit(lambda: 1)
    assert pool.submit(math.sqrt, 4).result() == 2


def test_prints_and_stdin_of_jobs_stay_out_of_the_way(pool, capfd):
    pool.submit(print, "noise").result()
    pool.submit(os.system, "echo noise >&2").result()
    with pytest.raises(EOFError):
        pool.submit(input).result()
    assert capfd.readouterr() == ("", "")


def test_results_keep_the_order_of_the_items(pool):
    delays = [0.2, 0.0, 0.1, 0.0, 0.05]
    assert list(pool.map(functools.partial(eval, "__import__('time').sleep(0) or 1"), [{}] * 3)) == [1, 1, 1]
    assert list(pool.map(pow, range(50), [2] * 50)) == [i * i for i in range(50)]
    yielded = []
    for delay, future in pool.imap(time.sleep, delays):
        assert future.done()
        yielded.append(delay)
    assert yielded == delays


def test_imap_reads_only_a_little_ahead(pool):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield read

    results = pool.imap(math.sqrt, endless())
    for i in range(1, 101):
        item, future = next(results)
        assert item == i
        assert future.result() == math.sqrt(i)
        assert read <= i + 4 * pool.workers
    results.close()


def test_imap_gives_each_failure_in_its_place(pool):
    codes = ["1", "1/0", "__import__('os').abort()", "4"]
    outcomes = [future.exception() or future.result() for _, future in pool.imap(eval, codes)]
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert isinstance(outcomes[2], WorkerDied)
    assert outcomes[3] == 4


def test_map_raises_and_keeps_to_its_time(pool):
    results = pool.map(math.sqrt, [1, -1])
    assert next(results) == 1
    with pytest.raises(ValueError, match=r"nonnegative|domain"):
        next(results)
    with pytest.raises(TimeoutError):
        list(pool.map(time.sleep, [0.1] * 20, timeout=0.15))


def test_shutdown_finishes_or_drops_what_is_queued():
    pool = KillablePool(1, timeout_s=20)
    futures = [pool.submit(math.sqrt, i) for i in range(5)]
    pool.shutdown()
    assert [future.result() for future in futures] == [math.sqrt(i) for i in range(5)]
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(math.sqrt, 1)

    pool = KillablePool(1, timeout_s=20)
    pool.submit(os.getpid).result()
    futures = [pool.submit(time.sleep, 0.2) for _ in range(5)]
    pool.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert futures[-1].cancelled()


def test_an_exception_in_the_block_kills_what_runs():
    with pytest.raises(KeyboardInterrupt), KillablePool(2, timeout_s=1000) as pool:  # noqa: PT012
        pids = [pool.submit(os.getpid).result()]
        futures = [pool.submit(time.sleep, 1000) for _ in range(10)]
        time.sleep(0.1)
        raise KeyboardInterrupt
    assert all(future.done() for future in futures)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_leaves_no_process_behind():
    before = {child.pid for child in psutil.Process().children()}
    with KillablePool(2, timeout_s=0.3) as pool:
        list(pool.imap(exec, ["pass", HANG_HOLDING_THE_GIL, "import os; os.abort()", "pass"]))
    assert {child.pid for child in psutil.Process().children()} == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal")
@pytest.mark.parametrize("job", ["import time; time.sleep(60)", HANG_HOLDING_THE_GIL])
def test_a_killed_parent_takes_its_workers_along(tmp_path: Path, job: str):
    ready = tmp_path / "pids"
    script = textwrap.dedent(f"""
        import os, time
        from clipbert.process_pool import KillablePool
        pool = KillablePool(2, timeout_s=60)
        pids = {{pool.submit(os.getpid).result() for _ in range(20)}}
        for _ in range(2):
            pool.submit(exec, {job!r})
        time.sleep(0.3)
        open({str(ready)!r} + ".part", "w").write(" ".join(map(str, pids)))
        os.rename({str(ready)!r} + ".part", {str(ready)!r})
        time.sleep(60)
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    wait_until(ready.exists, 30)
    pids = [int(pid) for pid in ready.read_text().split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(running(pid) for pid in pids))


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_import_nothing_of_the_caller_main(tmp_path: Path):
    script = tmp_path / "main.py"
    script.write_text(
        "import pathlib\n"
        f"with open({str(tmp_path / 'imports')!r}, 'a') as file: file.write('x')\n"
        "from clipbert.process_pool import KillablePool\n"
        "with KillablePool(1, timeout_s=20) as pool:\n"
        "    loaded = pool.submit(eval, \"sorted(__import__('sys').modules)\").result()\n"
        "assert not {'typer', 'torch', 'numpy', 'rich'} & set(loaded), loaded\n"
    )
    subprocess.run([sys.executable, script], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert (tmp_path / "imports").read_text() == "x"


def test_bad_arguments():
    with pytest.raises(ValueError, match="workers: 0"):
        KillablePool(0, 1)
    with pytest.raises(ValueError, match="timeout_s: 0"):
        KillablePool(1, 0)
    with KillablePool(1, 1) as pool, pytest.raises(ValueError, match="timeout_s: -1"):
        pool.submit(math.sqrt, 1, timeout_s=-1)


def test_a_job_that_needs_too_much_memory_is_killed_and_others_go_on():
    with KillablePool(2, timeout_s=20, max_worker_mb=200) as pool:
        creeping = "hoard = []\nimport time\nwhile True: hoard.append(bytearray(2**23)); time.sleep(0.02)"
        hungry = pool.submit(exec, creeping)
        others = [pool.submit(math.sqrt, i * i) for i in range(20)]
        assert [future.result() for future in others] == list(range(20))
        with pytest.raises(WorkerMemory, match="exec: needed more than 200 MB of memory"):
            hungry.result()
        assert pool.submit(math.sqrt, 4).result() == 2


def test_one_huge_allocation_fails_in_the_process_itself():
    with KillablePool(1, timeout_s=20, max_worker_mb=200) as pool:
        with pytest.raises(WorkerMemory, match="an allocation failed"):
            pool.submit(bytearray, 2**40).result()
        assert pool.submit(math.sqrt, 4).result() == 2


def test_a_fresh_process_on_demand():
    with KillablePool(1, timeout_s=20) as pool:
        first = pool.submit(os.getpid).result()
        assert pool.submit(os.getpid).result() == first
        assert pool.submit(os.getpid, fresh=True).result() != first


def test_items_have_time_limits_of_their_own(pool):
    limits = {0.0: 5.0, 3.0: 0.3}
    outcomes = [future.exception() for _, future in pool.imap(time.sleep, limits, limits.__getitem__)]
    assert outcomes[0] is None
    assert isinstance(outcomes[1], WorkerTimeout)
    assert "0.3 s" in str(outcomes[1])


@pytest.mark.parametrize(
    ("duration_s", "size", "expected"),
    [(0, 0, 20), (30, 0, 20), (60, 0, 20), (600, 0, 200), (0, 10_000_000, 20), (0, 10**9, 2000), (3600, 1, 1200)],
)
def test_time_limits_grow_with_the_file(duration_s: float, size: int, expected: float):
    assert time_limit(20, duration_s, size) == expected
