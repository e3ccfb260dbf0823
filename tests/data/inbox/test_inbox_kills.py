"""A pass that is killed at any step, a full disk, and two passes at once."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arriving import INGEST, ArrivingData
from write_points import in_child

from clipbert.data.inbox import merge, run
from clipbert.data.inbox.checks import Gate
from clipbert.errors import ClipBertError

pytestmark = pytest.mark.slow

STEPS = ("mkdir", "link", "unlink", "replace", "rename", "fsync", "rmdir")
Make = Callable[..., Path]


def files(arriving: ArrivingData) -> dict[str, bytes]:
    """The files that a pass changes, without the names of batches."""
    found = {}
    for folder in (arriving.data, arriving.inbox, arriving.root / "refused", arriving.places.merged):
        for path in folder.rglob("*") if folder.is_dir() else ():
            if path.is_file():
                name = path.relative_to(arriving.root).as_posix()
                found[name] = b"" if folder == arriving.places.merged else path.read_bytes()
    return found


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, tiny_data: Make, tiny_video: Make) -> ArrivingData:
    """A project whose pass was killed after the plan was written."""
    root = tmp_path_factory.mktemp("planned")
    tiny_data(root / "data")
    arriving = ArrivingData(root, severity={"near_duplicates": "warn"})
    arriving.video(tiny_video)
    arriving.row(split="train")
    arriving.row(id="c0", text="another text", name="captions-2.jsonl")
    (arriving.inbox / "videos/broken.mp4").write_bytes(b"no video")
    arriving.row(id="b", media="videos/broken.mp4")
    question = {"question": "what?", "answer": "new", "text": None, "split": "train"}
    arriving.row("open_qa.jsonl", **question)

    def killed(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        run.execute = killed
        arriving.collect()

    before = files(arriving)
    assert in_child(work) == -signal.SIGKILL
    assert files(arriving) == before, "nothing changes before the plan is complete"
    return arriving


def kill_at(step: int, name: str = "") -> None:
    """Kill this process before its write operation number `step`."""
    count = 0

    def watch(call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return watched

    for name in STEPS:
        setattr(os, name, watch(getattr(os, name)))


def copied(arriving: ArrivingData, root: Path) -> ArrivingData:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(arriving.root, root)
    copy = ArrivingData(root)
    copy.limits = arriving.limits
    for path in arriving.inbox.rglob("*"):  # the stamps of the copies
        stamp = f"{path.stat().st_size} {path.stat().st_mtime_ns} {path.stat().st_ino}"
        new = copy.inbox / path.relative_to(arriving.inbox)
        if path.is_file():
            again = f"{new.stat().st_size} {new.stat().st_mtime_ns} {new.stat().st_ino}"
            plan = copy.places.work / "staging" / "plan.json"
            plan.write_text(plan.read_text().replace(stamp, again))
    return copy


def test_a_merge_killed_before_any_of_its_steps_is_finished_by_the_next_pass(
    planned: ArrivingData, tmp_path: Path
) -> None:
    whole = copied(planned, tmp_path / "whole")
    assert len(whole.collect().resumed) == 1
    expected = files(whole)
    assert [row["id"] for row in whole.captions()[4:]] == ["new"]
    assert whole.left() == []
    assert sorted(name.split("/", 2)[2] for name in expected if name.startswith("refused/")) == [
        "captions-2.jsonl",
        "captions.jsonl",
        "reasons.json",
        "videos/broken.mp4",
    ]
    code, step, unfinished = -signal.SIGKILL, 0, 0
    while code == -signal.SIGKILL:
        step += 1
        one = copied(planned, tmp_path / "one")

        def work(one: ArrivingData = one, step: int = step) -> None:
            kill_at(step)
            one.collect()

        code = in_child(work)
        names = {row["media"] for row in one.captions()}
        assert all((one.data / name).is_file() for name in names), "no row names a missing file"
        unfinished += bool(one.collect().resumed)
        assert files(one) == expected, step
    assert code == 0
    assert unfinished > 15


def test_a_pass_killed_before_its_plan_starts_again(planned: ArrivingData, tmp_path: Path) -> None:
    one = copied(planned, tmp_path / "one")
    (one.places.work / "staging" / merge.PLAN).unlink()
    assert one.collect().resumed == []
    assert [row["id"] for row in one.captions()[4:]] == ["new"]
    assert one.left() == []


def test_a_full_disk_is_an_error_of_the_user_and_the_next_pass_finishes(
    planned: ArrivingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = copied(planned, tmp_path / "one")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("copy_within", "atomic_write"):
        with monkeypatch.context() as patch:
            patch.setattr(merge, name, full if name == "copy_within" else lambda *_: full())
            with pytest.raises((ClipBertError, OSError)):
                one.collect()
    assert len(one.collect().resumed) == 1
    assert [row["id"] for row in one.captions()[4:]] == ["new"]


def test_a_file_that_somebody_put_into_data_meanwhile_is_not_replaced(planned: ArrivingData, tmp_path: Path) -> None:
    one = copied(planned, tmp_path / "one")
    (one.data / "videos/new.mp4").write_bytes(b"another file")
    with pytest.raises(ClipBertError, match=r"data/videos/new.mp4: was created while the batch was merged, with other"):
        one.collect()
    assert (one.data / "videos/new.mp4").read_bytes() == b"another file"
    assert len(one.captions()) == 4
    (one.data / "videos/new.mp4").unlink()
    assert len(one.collect().resumed) == 1


def test_a_damaged_plan_is_an_error_that_names_it(planned: ArrivingData, tmp_path: Path) -> None:
    one = copied(planned, tmp_path / "one")
    plan = one.places.work / "staging" / merge.PLAN
    plan.write_text(plan.read_text()[:-10])
    with pytest.raises(ClipBertError, match=r"plan.json: is damaged .* then remove it"):
        one.collect()


HOLDER = """
    import sys
    from pathlib import Path
    from clipbert.files.locks import file_lock
    with file_lock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


def test_a_second_pass_waits_for_the_first(planned: ArrivingData, tmp_path: Path) -> None:
    one = copied(planned, tmp_path / "one")
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(one.places.work / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        stdin, said = holder.stdin, []

        def on_wait() -> None:
            said.append(one.captions())
            stdin.close()

        run.collect(one.places, one.params, INGEST, lambda: Gate(one.limits, one.root), on_wait)
    assert len(said) == 1
    assert len(said[0]) == 4
    assert len(one.captions()) == 5
