"""A cache that stays within its bytes, and digests that never belong to an older content of the file."""

import os
from pathlib import Path

import pytest

from clipbert.errors import ClipBertError
from clipbert.files import byte_cache
from clipbert.files.byte_cache import CACHE_MB, ByteCache, FileDigests, cache_limit


def test_what_was_used_least_recently_is_dropped() -> None:
    cache = ByteCache(100)
    for name in "abc":
        cache.put(name, name.upper(), 30)
    assert cache.get("a") == "A"
    cache.put("d", "D", 30)
    assert [cache.get(name) for name in "abcd"] == ["A", None, "C", "D"]
    assert cache.bytes == 90
    cache.put("a", "again", 60)
    assert (cache.get("a"), cache.get("c"), cache.bytes) == ("again", None, 90)


def test_an_entry_larger_than_the_cache_is_not_kept() -> None:
    cache = ByteCache(100)
    cache.put("a", "A", 40)
    cache.put("b", "B", 101)
    assert (cache.get("a"), cache.get("b"), cache.bytes) == ("A", None, 40)
    cache.put("a", "A", 101)
    assert (cache.get("a"), cache.bytes, len(cache)) == (None, 0, 0)
    cache.put("c", "C", 100)
    cache.clear()
    assert (cache.get("c"), cache.bytes) == (None, 0)


def age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the last change of a file count as long ago."""
    monkeypatch.setattr(byte_cache.time, "time_ns", lambda: path.stat().st_ctime_ns + 10 * byte_cache.RACY_NS)


def test_a_settled_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    digests, reads = FileDigests(), []
    read = byte_cache.sha256_file
    monkeypatch.setattr(byte_cache, "sha256_file", lambda file: reads.append(file) or read(file))
    first = digests.state(path)
    assert not first.settled
    assert digests.state(path).digest == first.digest
    assert len(reads) == 2
    age(path, monkeypatch)
    settled = digests.state(path)
    assert settled.settled
    assert digests.state(path) == settled
    assert digests.unchanged(path, settled)
    assert len(reads) == 3


def test_a_change_of_the_same_size_and_time_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    digests = FileDigests()
    recent = digests.state(path)
    age(path, monkeypatch)
    settled = digests.state(path)
    path.write_bytes(b"two")
    os.utime(path, ns=times)
    assert not digests.unchanged(path, recent)
    assert not digests.unchanged(path, settled)
    assert digests.state(path).digest != settled.digest
    path.unlink()
    assert not digests.unchanged(path, recent)
    assert not digests.unchanged(path, settled)


@pytest.mark.parametrize("text", ["-1", "many", "2000000", "9" * 30, ""])
def test_a_wrong_limit_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_MB, text)
    with pytest.raises(ClipBertError, match=f"CLIPBERT_CACHE_MB is '{text}': expected a number of MB from 0"):
        cache_limit()


def test_the_limit_is_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_MB, raising=False)
    assert cache_limit() == 256_000_000
    monkeypatch.setenv(CACHE_MB, "0")
    assert cache_limit() == 0
