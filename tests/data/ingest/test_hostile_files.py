"""Headers that promise what no file holds: a clear outcome each, soon, and without the memory they ask for."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from clipbert.config.data import IngestParams
from clipbert.data.ingest.probe import MediaInfo, Rejected
from clipbert.data.ingest.runner import open_probe_cache, probe_all
from clipbert.data.ingest.select import Selection
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_videos

pytestmark = pytest.mark.slow

MakeVideo = Callable[..., Path]

LARGE = 60_000


def probed(path: Path) -> MediaInfo | Rejected:
    """As ingest does, in a worker with seconds and 512 MB to spare."""
    params = IngestParams(num_workers=1, timeout_s=10, max_worker_mb=512)
    with open_probe_cache(path.parent / "memory.sqlite", params) as cache:
        [(_, found)] = probe_all(path.parent, Selection([path.name]), params, cache)
    return found


def patched(path: Path, box: bytes, offset: int, value: bytes) -> Path:
    """Overwrite bytes of an mp4 behind the name of a box."""
    content = bytearray(path.read_bytes())
    place = content.index(box) + len(box) + offset
    content[place : place + len(value)] = value
    path.write_bytes(content)
    return path


def test_a_gif_of_60000_by_60000_pixels(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = tiny_video(tmp_path / "a.gif", codec="gif", pix_fmt="rgb8")
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<HH", LARGE, LARGE)
    path.write_bytes(content)
    found = probed(path)
    assert isinstance(found, Rejected)
    assert (found.reason, found.detail) == ("too_large", "frames of 60000x60000 pixels, more than any decoder takes")


def test_an_mp4_of_60000_by_60000_pixels(tmp_path: Path, tiny_video: MakeVideo) -> None:
    path = patched(tiny_video(tmp_path / "a.mp4"), b"avc1", 24, struct.pack(">HH", LARGE, LARGE))
    found = probed(path)
    # the codec's own header says 64 x 48: either is a clear outcome, as long as nothing of that size is decoded
    assert isinstance(found, MediaInfo) or found.reason in ("too_large", "unreadable")


def test_a_png_of_60000_by_60000_pixels(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", LARGE, LARGE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    (tmp_path / "a.png").write_bytes(content)
    found = probed(tmp_path / "a.png")
    assert isinstance(found, Rejected)
    assert found.reason == "too_large"


@pytest.mark.parametrize("box", [b"stts", b"stsz", b"stsc", b"stco", b"ctts", b"stss"])
def test_an_mp4_of_a_billion_frames(tmp_path: Path, tiny_video: MakeVideo, box: bytes) -> None:
    path = tiny_video(tmp_path / "a.mp4", frames=40)
    if box not in path.read_bytes():
        pytest.skip(f"this encoder wrote no {box.decode()}")
    place = {b"stts": 8, b"stsz": 8}.get(box, 4)
    found = probed(patched(path, box, place, struct.pack(">I", 10**9)))
    if isinstance(found, Rejected):
        assert found.reason in ("unreadable", "truncated", "too_short", "too_long", "memory", "timeout"), found
    else:
        assert found.num_frames is not None
        assert found.num_frames <= 40


def test_a_stream_of_0_frames_a_second(tmp_path: Path, tiny_video: MakeVideo) -> None:
    """Every frame of an AVI at the same time: its rate is nought by its header."""
    path = tiny_video(tmp_path / "a.avi", codec="mpeg4", frames=16)
    patched(path, b"strh", 4 + 20, struct.pack("<II", 1, 0))
    patched(path, b"avih", 4, struct.pack("<I", 0))
    found = probed(path)
    if isinstance(found, MediaInfo):
        assert found.fps > 0
        assert 0 < found.duration_s < float("inf")
    else:
        assert found.reason in ("unreadable", "truncated", "too_short", "too_long")


def test_memory_over_the_limit_is_a_reason_of_its_own(
    tmp_path: Path, tiny_data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data(tmp_path / "data")
    (tmp_path / "hungry").mkdir()
    (tmp_path / "hungry" / "av.py").write_text("hoard = [bytearray(2**24) for _ in range(10**4)]")
    monkeypatch.syspath_prepend(str(tmp_path / "hungry"))
    # images need no PyAV; the workers' own imports do
    from PIL import Image

    from clipbert.errors import ClipBertError

    Image.new("RGB", (8, 8)).save(data / "videos" / "a.png")
    params = IngestParams(num_workers=1, max_worker_mb=256, max_quarantined_fraction=1.0)
    with pytest.raises(ClipBertError) as caught:
        ingest(data, tmp_path / "out", params)
    assert "videos/0.mp4: memory (twice: " in str(caught.value)
    assert "needed more than 256 MB of memory" in str(caught.value)


def test_memory_enough_for_real_files(tmp_path: Path, tiny_data: Callable[..., Path]) -> None:
    ingest(tiny_data(tmp_path / "data"), tmp_path / "out", IngestParams(num_workers=1, max_worker_mb=256))
    assert len(read_videos(tmp_path / "out")) == 4
