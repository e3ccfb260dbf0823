import subprocess
import sys
import threading
import time
from pathlib import Path

from prefect_server import REPOSITORY, until

from flows.turn import turn

HOLDER = """
import sys, time
from pathlib import Path
from flows.turn import turn
with turn(Path(sys.argv[1]), print):
    print("mine", flush=True)
    time.sleep(1000)
"""


def test_a_second_flow_says_that_it_waits_until_the_first_has_died(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    said: list[str] = []
    done = threading.Event()

    def second() -> None:
        with turn(tmp_path, said.append):
            done.set()

    threading.Thread(target=second).start()
    until(lambda: said)
    assert said == [f"Waiting: another run works in {tmp_path}"]
    time.sleep(0.2)
    assert not done.is_set()
    first.kill()
    first.wait()
    first.stdout.close()
    assert done.wait(10)
