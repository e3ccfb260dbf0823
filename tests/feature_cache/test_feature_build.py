"""The feature cache: what the model computes from pixels, kept like frames, and never that of another backbone."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered_videos import PARAMS, numbered, write_manifest, write_video

from clipbert.cli.doctor import check_artifacts
from clipbert.errors import ClipBertError
from clipbert.feature_cache import FeatureCache
from clipbert.feature_cache.build import feature_settings, features_folder, find_features, open_features
from clipbert.frame_cache import CorruptShardError, FrameCache
from clipbert.frame_cache.build import build_cache
from clipbert.model import ClipBertConfig, ClipBertForOpenQA, ClipBertForRetrieval, ClipBertProcessor
from clipbert.tasks.scoring import CachedFrames, encode_clips

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "vision": {"model_type": "resnet", "hidden_sizes": [8, 12], "depths": [1, 1], "embedding_size": 8},
}


def make_model(seed: int = 0, **fields: Any) -> ClipBertForRetrieval:
    torch.manual_seed(seed)
    return ClipBertForRetrieval(
        ClipBertConfig.tiny(**(SIZES | {"video_head": "direct", "cross_encoder": False} | fields))
    )


def make_processor(**settings: Any) -> ClipBertProcessor:
    tokenizer = ClipBertProcessor.train_tokenizer(["a bar moves"], vocab_size=60)
    return ClipBertProcessor(tokenizer, **({"image_size": 32, "clips": 2, "frames_per_clip": 2} | settings))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def project(tiny_project: Path) -> Path:
    return tiny_project


@pytest.fixture(scope="module")
def cache(project: Path) -> FrameCache:
    return FrameCache(project / "artifacts" / "frames")


def test_features_are_those_of_the_pixels(cache: FrameCache, tmp_path: Path) -> None:
    model, processor = make_model().train(), make_processor()
    features = open_features(tmp_path, model, processor, cache)
    assert model.training
    assert features.media == cache.media
    media = cache.media[-3:]
    videos = [CachedFrames(cache, name) for name in media]
    cached = [CachedFrames(features, name) for name in media]
    model.eval()
    for pixels, stored in zip(
        encode_clips(model, processor, videos, 2), encode_clips(model, processor, cached, 2), strict=True
    ):
        assert pixels.shape == stored.shape == (2, 1, 16)
        assert torch.allclose(pixels, stored, atol=1e-5)
    assert features.shape == (12,)
    assert features.read(media[0], [1, 0]).dtype == np.float32
    assert np.array_equal(features[media[0]].times, cache[media[0]].times)


def test_a_cross_encoder_gets_whole_maps(cache: FrameCache, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ClipBertForOpenQA(ClipBertConfig.tiny(**SIZES, answers=["a", "b"])).eval()
    processor = make_processor()
    features = open_features(tmp_path, model, processor, cache)
    assert features.shape == (12, 4, 4)
    name = cache.media[-1]
    (pixels,) = encode_clips(model, processor, [CachedFrames(cache, name)], 2)
    (stored,) = encode_clips(model, processor, [CachedFrames(features, name)], 2)
    assert torch.allclose(pixels, stored, atol=2e-2)
    (black,) = encode_clips(model, processor, [CachedFrames(features, name)], 2, blank=True)
    (expected,) = encode_clips(model, processor, [CachedFrames(cache, name)], 2, blank=True)
    assert torch.allclose(black, expected, atol=1e-5)


@pytest.mark.slow
def test_only_what_is_missing_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcde":
        write_video(tmp_path / f"{name}.mp4", [numbered(ord(name) + i) for i in range(20)])

    def frames_of(names: str) -> FrameCache:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data" / "videos").mkdir(parents=True)
        for name in names:
            shutil.copy(tmp_path / f"{name}.mp4", tmp_path / "data" / "videos")
        manifest = write_manifest(tmp_path / "data", tmp_path / "manifest")
        build_cache(tmp_path / "data", manifest, tmp_path / "frames", PARAMS, workers=1)
        return FrameCache(tmp_path / "frames")

    model, processor = make_model(), make_processor()
    open_features(tmp_path / "features", model, processor, frames_of("abc"))
    assert "features: 3 media computed, 0 kept" in capsys.readouterr().out
    frames = frames_of("bcde")
    features = open_features(tmp_path / "features", model, processor, frames)
    assert "features: 2 media computed, 2 kept" in capsys.readouterr().out
    assert features.media == frames.media

    again = open_features(tmp_path / "full", model, processor, frames)
    assert files_of(Path(features.path)) == files_of(Path(again.path))

    def refuse(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("clipbert.feature_cache.build.frame_features", refuse)
    capsys.readouterr()
    open_features(tmp_path / "features", model, processor, frames)
    assert "computed" not in capsys.readouterr().out


def test_another_backbone_or_input_has_another_folder(cache: FrameCache, tmp_path: Path) -> None:
    model, processor = make_model(), make_processor()
    folder = features_folder(tmp_path, feature_settings(model, processor, cache))
    assert folder.name.startswith("resnet-")
    others = [
        (make_model(seed=1), processor),
        (make_model(cross_encoder=True), processor),
        (make_model(image_mean=[0.0, 0.0, 0.0]), processor),
        (model, make_processor(image_size=64)),
    ]
    folders = {features_folder(tmp_path, feature_settings(*other, cache)) for other in others}
    assert len(folders | {folder}) == 5
    head = make_model()
    with torch.no_grad():
        head.contrast.linear.weight.add_(1)  # type: ignore[union-attr,operator]
    assert features_folder(tmp_path, feature_settings(head, processor, cache)) == folder


def test_the_features_of_another_backbone_are_refused(cache: FrameCache, tmp_path: Path) -> None:
    model, other, processor = make_model(), make_model(seed=1), make_processor()
    written = Path(open_features(tmp_path, other, processor, cache).path)
    folder = features_folder(tmp_path, feature_settings(model, processor, cache))
    os.replace(written, folder)
    with pytest.raises(
        ClipBertError, match=rf"{folder}: holds the features of another backbone \(backbone '.*remove it"
    ):
        open_features(tmp_path, model, processor, cache)


def test_damage_is_named(cache: FrameCache, tmp_path: Path) -> None:
    model, processor = make_model(), make_processor()
    features = open_features(tmp_path, model, processor, cache)
    shard = Path(features.path) / features.shards[0]
    content = bytearray(shard.read_bytes())
    content[520] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptShardError, match=rf"{shard}: frame 0 fails its checksum .*remove the folder"):
        features.read(features.media[0], [0])
    shard.unlink()
    with pytest.raises(CorruptShardError, match="the shard is missing"):
        FeatureCache(features.path).read(features.media[0], [0])
    # a missing shard is computed again
    repaired = open_features(tmp_path, model, processor, cache)
    assert repaired.read(features.media[0], [0]).shape == (1, 12)


def test_a_loader_process_gets_the_same_cache(cache: FrameCache, tmp_path: Path) -> None:
    features = open_features(tmp_path, make_model(), make_processor(), cache)
    copy = pickle.loads(pickle.dumps(features))
    name = features.media[-1]
    assert np.array_equal(copy.read(name, [0]), features.read(name, [0]))


def test_a_frame_cache_is_not_a_feature_cache(cache: FrameCache) -> None:
    with pytest.raises(ClipBertError, match="a frame cache, expected a feature cache"):
        FeatureCache(cache.path)


def test_evaluation_finds_the_features_only_if_there_are_some(cache: FrameCache, tmp_path: Path) -> None:
    model, processor = make_model(), make_processor()
    assert find_features(tmp_path / "features", model, processor, cache) is None
    open_features(tmp_path / "features", make_model(seed=1), processor, cache)
    assert find_features(tmp_path / "features", model, processor, cache) is None
    made = open_features(tmp_path / "features", model, processor, cache)
    found = find_features(tmp_path / "features", model, processor, cache)
    assert found is not None
    assert found.path == made.path


def test_the_doctor_names_a_short_shard(cache: FrameCache, tmp_path: Path) -> None:
    features = open_features(tmp_path / "artifacts" / "features", make_model(), make_processor(), cache)
    assert [f.problem for f in check_artifacts(tmp_path) if f.what == "feature caches"] == [None]
    shard = Path(features.path) / features.shards[0]
    shard.write_bytes(shard.read_bytes()[:1000])
    (problem,) = [finding.problem for finding in check_artifacts(tmp_path) if finding.problem is not None]
    assert f"{shard}: has 1000 bytes" in problem
    assert f"Remove {features.path}" in problem
