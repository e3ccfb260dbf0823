"""Files probed in processes that are killed, once more with care, and not at all when nothing changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canonical_data import LENIENT, PARAMS, caption, quarantine

from clipbert.data.ingest import ingest
from clipbert.data.manifest import read_videos
from clipbert.params import IngestParams

MakeVideo = Callable[..., Path]


HANGING_DECORD = """
import ctypes
libc = ctypes.PyDLL(None)  # keeps the GIL: not even a signal handler runs again
class DECORDError(Exception): pass
def cpu(number): return number
def VideoReader(*arguments, **named):
    while True: libc.pause()
"""


def test_a_decoder_that_hangs_holding_the_gil_is_killed_and_replaced(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging").mkdir()
    (tmp_path / "hanging" / "decord.py").write_text(HANGING_DECORD)
    monkeypatch.syspath_prepend(str(tmp_path / "hanging"))  # workers take over the search path
    summary = ingest(data, tmp_path / "out", IngestParams(workers=2, timeout_s=1.0))
    assert not summary.quarantined
    videos = read_videos(tmp_path / "out")
    assert videos["path_taken"].tolist() == ["pyav"] * 4
    assert videos["path_reason"].tolist() == ["decord hung, crashed or took too much memory"] * 4


def test_limits(tmp_path: Path, data: Path, tiny_video: MakeVideo) -> None:
    tiny_video(data / "videos" / "long.mp4", frames=40)
    tiny_video(data / "videos" / "short.mp4", frames=2)
    tiny_video(data / "videos" / "wide.mp4", size=(640, 32))
    tiny_video(data / "videos" / "large.mp4", size=(640, 360))
    limits = {"min_duration_s": 1.0, "max_duration_s": 3.0, "max_megapixels": 0.1, "max_aspect": 10.0}
    params = LENIENT.model_copy(update=limits)
    expected = {
        "videos/large.mp4": "too_large",
        "videos/long.mp4": "too_long",
        "videos/short.mp4": "too_short",
        "videos/wide.mp4": "extreme_aspect",
    }
    ingest(data, tmp_path / "out", params)
    assert quarantine(tmp_path / "out") == expected
    ingest(data, tmp_path / "out", LENIENT)
    assert quarantine(tmp_path / "out") == {}
    ingest(data, tmp_path / "out", params)
    assert quarantine(tmp_path / "out") == expected


def probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are really probed from here on, not remembered."""
    from clipbert.data import probing

    seen: list[str] = []
    submit = probing._Probing._submit

    def watch(self: Any, careful: bool, fresh: bool = False) -> Any:
        seen.append(self._task.media)
        return submit(self, careful, fresh)

    monkeypatch.setattr(probing._Probing, "_submit", watch)
    return seen


def test_a_run_costs_what_changed(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "videos" / "broken.mp4").write_text("no video")
    ingest(data, tmp_path / "out", LENIENT)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    seen = probed(tmp_path, monkeypatch)
    ingest(data, tmp_path / "out", LENIENT)
    assert seen == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first

    (data / "videos" / "1.mp4").write_bytes((data / "videos" / "1.mp4").read_bytes() + b"0")
    (data / "videos" / "2.mp4").rename(data / "videos" / "moved.mp4")
    ingest(data, tmp_path / "out", LENIENT)
    assert seen == ["videos/1.mp4", "videos/moved.mp4"]
    ingest(data, tmp_path / "out", LENIENT.model_copy(update={"verify": "never"}))
    assert len(seen) == 2 + 5


def test_a_memory_that_is_damaged_is_made_afresh(tmp_path: Path, data: Path) -> None:
    ingest(data, tmp_path / "out", PARAMS)
    memory = tmp_path / "probes" / "probes.sqlite"
    memory.write_bytes(b"no database at all" * 1000)
    ingest(data, tmp_path / "out", PARAMS)
    assert memory.read_bytes().startswith(b"SQLite format 3")
    assert len(read_videos(tmp_path / "out")) == 4


