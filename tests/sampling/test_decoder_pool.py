"""Decoder processes are used again, replaced after a hang or crash, and not shared with forked processes."""

import os
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
from numbered_videos import number_of, numbered, write_video

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.files.byte_cache import ByteCache
from clipbert.process_pool import KillablePool
from clipbert.sampling import video_input
from clipbert.sampling.decoder_pool import decoder_pool, start_decoder, stop_decoders
from clipbert.sampling.video_input import DEFAULT_WORKER_MB, decode_input, decode_known, forget_decoded

pytestmark = pytest.mark.slow  # starts processes

PARAMS = FramesParams(fps=2.0, size=32, max_frames=8)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    forget_decoded()
    stop_decoders()  # those of other tests in this process
    return write_video(tmp_path / "v.mp4", [numbered(i) for i in range(20)])


def read_again(path: Path) -> list[int]:
    """Decode a file once more and return the numbers of its frames."""
    forget_decoded()
    return [number_of(image) for image in decode_input(path, PARAMS).images]


def decoders() -> set[int]:
    """The processes that decode files for this process."""
    pool = decoder_pool(DEFAULT_WORKER_MB)
    return {worker.process.pid for worker in pool._running}


def test_calls_share_a_process_which_is_replaced_after_a_crash(video: Path) -> None:
    start_decoder(DEFAULT_WORKER_MB).result()
    assert read_again(video) == read_again(video) == [2, 7, 12, 17]
    before = decoders()
    assert len(before) == 1
    assert read_again(video) == [2, 7, 12, 17]
    assert decoders() == before
    pool = decoder_pool(DEFAULT_WORKER_MB)
    assert pool.submit(os._exit, 3).exception() is not None
    assert read_again(video) == [2, 7, 12, 17]
    assert decoders().isdisjoint(before)


def test_a_file_that_takes_too_long_fails_alone(video: Path, tmp_path: Path) -> None:
    long = write_video(tmp_path / "long.mp4", [numbered(i % 20) for i in range(1500)])
    with pytest.raises(ClipBertError, match=r"long\.mp4: cannot be decoded: .*took longer.*\. Check that it plays"):
        decode_input(long, PARAMS.model_copy(update={"timeout_s": 0.001}))
    assert read_again(video) == [2, 7, 12, 17]


def test_stopped_decoders_start_again(video: Path) -> None:
    read_again(video)
    (first,) = decoders()
    stop_decoders()
    assert not psutil.pid_exists(first)
    assert read_again(video) == [2, 7, 12, 17]


def test_a_forked_process_has_decoders_of_its_own(video: Path) -> None:
    read_again(video)
    child = os.fork()
    if child == 0:
        os._exit(0 if read_again(video) == [2, 7, 12, 17] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_again(video) == [2, 7, 12, 17]


def test_an_idle_process_ends_and_the_next_job_starts_another() -> None:
    with KillablePool(1, timeout_s=20, idle_s=0.05) as pool:
        first = pool.submit(os.getpid).result()
        psutil.Process(first).wait(timeout=20)
        assert pool.submit(os.getpid).result() != first


def test_a_relative_path_is_that_of_the_callers_folder(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_again(video)
    (tmp_path / "other").mkdir()
    shutil.copy(video, tmp_path / "other" / "here.mp4")
    (tmp_path / "other" / "bad.mp4").write_bytes(b"no video" * 99)
    monkeypatch.chdir(tmp_path / "other")
    assert read_again(Path("here.mp4")) == [2, 7, 12, 17]
    with pytest.raises(ClipBertError, match=r"^bad\.mp4: cannot be decoded: .*\. Check that it plays, or write it"):
        decode_input("bad.mp4", PARAMS)


def test_frames_are_kept_by_content_and_settings(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, paths = video_input.read_frames, []
    monkeypatch.setattr(video_input, "read_frames", lambda path, *rest: paths.append(path) or read(path, *rest))
    first = decode_input(video, PARAMS)
    shutil.copy(video, tmp_path / "copy.mp4")
    assert decode_input(tmp_path / "copy.mp4", PARAMS) is first
    assert decode_input(video.read_bytes(), PARAMS) is first
    assert paths == [video]
    with pytest.raises(ValueError, match="read-only"):
        first.images[0] = 0
    assert len(decode_input(video, PARAMS.model_copy(update={"fps": 1.0})).images) == 2
    write_video(video, [numbered(i + 5) for i in range(20)])
    assert number_of(decode_input(video, PARAMS).images[0]) == 7
    assert len(paths) == 3


def test_a_file_that_changes_while_it_is_decoded_is_not_kept(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = video_input.read_frames

    def change_after(path: Path, *rest: object) -> object:
        frames = read(path, *rest)  # type: ignore[arg-type]
        with path.open("ab") as file:
            file.write(b"more")
        return frames

    monkeypatch.setattr(video_input, "read_frames", change_after)
    assert decode_known(video, PARAMS).digest is None
    monkeypatch.setattr(video_input, "read_frames", read)
    again = decode_known(video, PARAMS)
    assert again.digest is not None
    assert decode_known(video, PARAMS).frames is again.frames


def test_kept_frames_stay_within_the_limit(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ByteCache(1000)
    monkeypatch.setattr(video_input, "_decoded", cache)
    first = decode_input(video, PARAMS)
    assert len(cache) == 0
    assert np.array_equal(decode_input(video, PARAMS).images, first.images)
