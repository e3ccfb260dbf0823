"""Reading the cache: random access, from any process and thread, and nothing believed that fails its checksum."""

import concurrent.futures
import io
import json
import multiprocessing
import pickle
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numbered_videos import number_of
from PIL import Image

from clipbert.errors import ClipBertError
from clipbert.frame_cache import CorruptShardError, FrameCache
from clipbert.sampling.candidates import decode_file

MEDIA = ["images/c.png", *(f"videos/{name}.mp4" for name in "abdef")]


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_lists_what_it_holds(sample_cache):
    cache = FrameCache(str(sample_cache))
    assert cache.media == list(cache) == MEDIA
    assert len(cache) == 6
    assert "videos/a.mp4" in cache
    assert "videos/zzz.mp4" not in cache
    assert cache.settings["fps"] == 2.0
    assert [cache.num_frames(media) for media in cache] == [1, 4, 5, 6, 7, 8]


def test_gives_times_and_upright_pictures(sample_cache):
    video = FrameCache(sample_cache)["videos/d.mp4"]
    assert video.times.dtype == np.float64
    assert video.times.tolist() == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    assert video.images.shape == (6, 32, 43, 3)
    assert video.images.dtype == np.uint8
    assert [number_of(image) for image in video.images] == [80 + int(time * 10) for time in video.times]
    assert len(video) == 6


def test_pictures_are_those_decoded_within_what_jpeg_loses(sample, sample_cache):
    cache = FrameCache(sample_cache)
    for media in MEDIA:
        decoder = "pil" if media.endswith("png") else "pyav"
        frames = decode_file(str(sample / media), decoder, 2.0, 32, 64)
        difference = np.abs(cache[media].images.astype(int) - frames.images)
        assert difference.mean() < 3


def test_random_access_is_the_same_as_all_at_once(sample_cache):
    cache = FrameCache(sample_cache)
    generator = np.random.default_rng(0)
    for media in MEDIA:
        images = cache[media].images
        for _ in range(5):
            indices = generator.integers(0, len(images), size=7)
            assert (cache.read(media, indices) == images[indices]).all()
    assert cache.read(MEDIA[1], []).shape == (0, 32, 43, 3)
    assert cache.read(MEDIA[1], [2]).shape == (1, 32, 43, 3)


def test_indices_outside_are_errors(sample_cache):
    cache = FrameCache(sample_cache)
    for index in (-1, 4):
        with pytest.raises(IndexError, match=rf"videos/a\.mp4: frame {index} of 4"):
            cache.read("videos/a.mp4", [0, index])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_read_in_other_processes(sample_cache, method):
    cache = FrameCache(sample_cache)
    expected = [cache.read(media, [0]) for media in MEDIA]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(cache.read, [(media, [0]) for media in MEDIA] * 3)
    assert all((a == b).all() for a, b in zip(found, expected * 3, strict=True))


def test_read_in_threads(sample_cache):
    cache = FrameCache(sample_cache)
    expected = {media: cache[media].images for media in MEDIA}
    cache = FrameCache(sample_cache)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [(media, pool.submit(cache.read, media, range(len(expected[media])))) for media in MEDIA * 20]
        assert all((job.result() == expected[media]).all() for media, job in jobs)


def test_pickles_as_its_path(sample_cache):
    cache = FrameCache(sample_cache)
    assert cache[MEDIA[0]].images.size
    data = pickle.dumps(cache)
    assert len(data) < 500
    assert (pickle.loads(data)[MEDIA[1]].images == cache[MEDIA[1]].images).all()


def test_shards_are_tars_as_webdataset_wants_them(sample_cache):
    members = {}
    for shard in FrameCache(sample_cache).shards:
        with tarfile.open(sample_cache / shard) as tar:
            for info in tar:
                assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
                key, extension = info.name.split(".", 1)
                members.setdefault(key, {})[extension] = tar.extractfile(info).read()
    assert len(members) == 6
    by_media = {json.loads(member["json"])["media"]: member for member in members.values()}
    assert list(by_media) == MEDIA
    cache = FrameCache(sample_cache)
    for media, member in by_media.items():
        about = json.loads(member.pop("json"))
        assert about["times"] == cache[media].times.tolist()
        assert sorted(member) == [f"{i:03d}.jpg" for i in range(len(about["times"]))]
        pictures = [Image.open(io.BytesIO(member[name])) for name in sorted(member)]
        assert all(picture.size == (about["width"], about["height"]) for picture in pictures)
        assert (np.stack(pictures) == cache[media].images).all()


def test_the_index_alone_finds_a_frame(sample_cache):
    row = pd.read_feather(sample_cache / "index.arrow").iloc[3]
    shard = (sample_cache / row["shard"]).read_bytes()
    start, length = row["frame_offsets"][2], row["frame_lengths"][2]
    picture = Image.open(io.BytesIO(shard[start : start + length]))
    assert (np.asarray(picture) == FrameCache(sample_cache)[row["media"]].images[2]).all()
    assert picture.size == (row["width"], row["height"])


def test_a_flipped_byte_is_found_and_named(cache_dir):
    row = pd.read_feather(cache_dir / "index.arrow").iloc[2]
    flip(cache_dir / row["shard"], row["frame_offsets"][1] + row["frame_lengths"][1] // 2)
    cache = FrameCache(cache_dir)
    with pytest.raises(CorruptShardError) as caught:
        _ = cache[row["media"]].images
    message = str(caught.value)
    assert row["shard"] in message
    assert row["media"] in message
    assert "frame 1 fails its checksum" in message
    assert "clipbert frames --repair" in message
    assert isinstance(caught.value, ClipBertError)
    assert len(cache.read(row["media"], [0, 2])) == 2
    assert all(cache[media].images.size for media in cache if media != row["media"])


def test_short_and_missing_shards_are_named(cache_dir):
    row = pd.read_feather(cache_dir / "index.arrow").iloc[-1]
    shard = cache_dir / row["shard"]
    with shard.open("r+b") as file:
        file.truncate(row["offset"] + 600)
    with pytest.raises(
        CorruptShardError, match=r"shard-[0-9a-f]{64}\.tar: the shard is too short \(media videos/f\.mp4\)"
    ):
        _ = FrameCache(cache_dir)[row["media"]].images
    shard.unlink()
    with pytest.raises(CorruptShardError, match="the shard is missing"):
        _ = FrameCache(cache_dir)[row["media"]].images


def test_messages_for_what_is_not_there(tmp_path, cache_dir):
    with pytest.raises(ClipBertError, match=r"no frame cache here .*clipbert frames"):
        FrameCache(tmp_path / "nothing")
    with pytest.raises(ClipBertError, match=r"videos/zzz\.mp4: not in the frame cache .* holds 6 media"):
        FrameCache(cache_dir)["videos/zzz.mp4"]
    (cache_dir / "index.arrow").write_bytes((cache_dir / "index.arrow").read_bytes()[:-100])
    with pytest.raises(ClipBertError, match=r"index\.arrow: damaged .*clipbert frames"):
        FrameCache(cache_dir)
    table = pa.table({"media": ["a.mp4"]})
    with pa.ipc.new_file(cache_dir / "index.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ClipBertError, match="written by another version"):
        FrameCache(cache_dir)


def test_a_flipped_byte_in_the_index_is_found(cache_dir):
    content = (cache_dir / "index.arrow").read_bytes()
    times = np.array([0.25, 0.75]).tobytes()
    flip(cache_dir / "index.arrow", content.index(times))
    cache = FrameCache(cache_dir)
    with pytest.raises(ClipBertError, match=r"index\.arrow: damaged \(a row fails its checksum\).*clipbert frames"):
        _ = cache["videos/a.mp4"]
    assert len(cache["images/c.png"].images) == 1
