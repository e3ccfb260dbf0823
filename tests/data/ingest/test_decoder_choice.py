"""Each kind of file on which decord was measured to return wrong frames goes to PyAV."""

import pytest

from clipbert.data.ingest.decoder_choice import Scan, choose_decoder

PLAIN = Scan(packets=30)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mov", "h264"),
        ("mov", "hevc"),
        ("mov", "vp9"),
        ("matroska", "h264"),
        ("matroska", "vp8"),
        ("matroska", "vp9"),
        ("flv", "h264"),
    ],
)
def test_decord_serves_plain_files(container: str, codec: str) -> None:
    assert choose_decoder(container, codec, PLAIN, mirrored=False)[0] == "decord"


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("avi", "h264"),
        ("avi", "mpeg4"),
        ("mpegts", "h264"),
        ("mpeg", "mpeg1video"),
        ("asf", "wmv2"),
        ("gif", "gif"),
        ("ogg", "theora"),
        ("mov", "av1"),
        ("matroska", "av1"),
        ("mov", "mpeg4"),
    ],
)
def test_pyav_serves_what_decord_gets_wrong_or_cannot_open(container: str, codec: str) -> None:
    path, reason = choose_decoder(container, codec, PLAIN, mirrored=False)
    assert path == "pyav"
    assert container in reason or codec in reason


@pytest.mark.parametrize(
    ("scan", "mirrored", "word"),
    [
        (Scan(packets=30, hidden=4), False, "edit list hides 4 frames"),
        (Scan(packets=30, leading=2), False, "open groups of pictures: 2"),
        (Scan(packets=30, untimed=1), False, "no time stamp"),
        (Scan(packets=30, starts_on_key=False), False, "between two key frames"),
        (PLAIN, True, "mirrored"),
    ],
)
def test_pyav_serves_odd_files_of_good_containers(scan: Scan, mirrored: bool, word: str) -> None:
    path, reason = choose_decoder("mov", "h264", scan, mirrored)
    assert path == "pyav"
    assert word in reason
