"""Files probed in processes that are killed, once more with care, and not at all when nothing changed."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canonical_data import LENIENT, PARAMS, quarantine

from clipbert.config.data import IngestParams
from clipbert.data.ingest.probe import MediaInfo
from clipbert.data.ingest.probe_cache import ProbeCache, file_stamp, find_damage
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_videos

MakeVideo = Callable[..., Path]


HANGING_DECORD = """
import ctypes
libc = ctypes.PyDLL(None)  # keeps the GIL: not even a signal handler runs again
class DECORDError(Exception): pass
def cpu(number): return number
def VideoReader(*arguments, **named):
    while True: libc.pause()
"""


@pytest.mark.slow
def test_a_decoder_that_hangs_holding_the_gil_is_killed_and_replaced(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging").mkdir()
    (tmp_path / "hanging" / "decord.py").write_text(HANGING_DECORD)
    monkeypatch.syspath_prepend(str(tmp_path / "hanging"))  # workers take over the search path
    summary = ingest(data, tmp_path / "out", IngestParams(num_workers=2, timeout_s=1.0))
    assert not summary.quarantined
    videos = read_videos(tmp_path / "out")
    assert videos["path_taken"].tolist() == ["pyav"] * 4
    assert videos["path_reason"].tolist() == ["decord hung, crashed or took too much memory"] * 4


@pytest.mark.slow
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
    from clipbert.data.ingest import runner as probing

    seen: list[str] = []
    submit = probing._Probing._submit

    def watch(self: Any, careful: bool, fresh: bool = False) -> Any:
        seen.append(self._task.media)
        return submit(self, careful, fresh)

    monkeypatch.setattr(probing._Probing, "_submit", watch)
    return seen


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_memory_that_is_damaged_is_made_afresh(tmp_path: Path, data: Path) -> None:
    ingest(data, tmp_path / "out", PARAMS)
    memory = tmp_path / "probes" / "probes.sqlite"
    memory.write_bytes(b"no database at all" * 1000)
    ingest(data, tmp_path / "out", PARAMS)
    assert memory.read_bytes().startswith(b"SQLite format 3")
    assert len(read_videos(tmp_path / "out")) == 4


def outcome(number: int) -> MediaInfo:
    return MediaInfo("video", f"{number:064d}", number, "mp4", "h264", 64, 48, 8.0, 2.0, 16, 0, "decord", "exact")


def cache(path: Path) -> ProbeCache:
    return ProbeCache(path, "settings", "failures")


def test_damage_to_what_is_remembered_is_never_used_and_never_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every outcome that comes back after a flipped bit or a truncation is the one that was kept."""
    path = tmp_path / "probes.sqlite"
    names = [f"videos/{number}.mp4" for number in range(40)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    memory = cache(path)
    for number, name in enumerate(names):
        memory.add(name, file_stamp(tmp_path / name), f"{number:064d}", outcome(number))
    memory.close(complete=True)
    whole, draw = path.read_bytes(), random.Random(0)
    damages = [whole[: len(whole) * part // 20] for part in range(20)]
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        damages.append(bytes(flipped))
    forgotten = 0
    for damaged in damages:
        path.write_bytes(damaged)
        again = cache(path)
        for number, name in enumerate(names):
            found = again.find(tmp_path, name)
            assert found in (None, outcome(number))
            forgotten += found is None
        again.add(names[0], file_stamp(tmp_path / names[0]), f"{0:064d}", outcome(0))
        assert again.find(tmp_path, names[0]) == outcome(0)
        again.close(complete=True)
    assert 0 < forgotten < len(damages) * len(names)
    assert "removed, and its files are probed again" in " ".join(capsys.readouterr().err.split())


def test_a_changed_value_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "probes.sqlite"
    memory = cache(path)
    memory.add("a.mp4", file_stamp(tmp_path), "0" * 64, outcome(0))
    memory.close(complete=True)
    assert find_damage(path) is None
    path.write_bytes(path.read_bytes().replace(b'"width": 64', b'"width": 65'))
    assert find_damage(path) == "an outcome does not match its checksum"


def test_what_is_remembered_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        cache(tmp_path / "probes.sqlite").close(complete=True)
    finally:
        os.umask(before)
    assert (tmp_path / "probes.sqlite").stat().st_mode & 0o777 == 0o664
