"""Build of the feature cache: an origin for the frame cache's build, so that both have the same guarantees.

A build is incremental, resumes after a kill, commits atomically and gives the same bytes for every order of
builds. Each backbone, image size and way of resizing has its own folder, named by their digest.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipbert.config.schema import FramesParams
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.feature_cache.reader import DTYPES, FRAMES, FeatureCache, backbone_settings
from clipbert.files.locks import file_lock
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.index import INDEX_FILE, Index, Settings
from clipbert.frame_cache.job import Executor, Job, Outcome
from clipbert.frame_cache.plan import Wanted
from clipbert.frame_cache.shards import EXTENSION, lay_out
from clipbert.frame_cache.update import update_cache

FORMAT = 1
SHARD_BYTES = 64 * 2**20
FRAMES_AT_ONCE = 64


class FrameFeatures:
    """Origin of features: the frames of a frame cache, through the backbone of a model."""

    title = "features"

    def __init__(self, cache: FrameCache, model: Any, processor: Any, settings: Settings) -> None:
        self.cache, self.model, self.processor, self.settings = cache, model, processor, settings

    def job(self, wanted: Wanted) -> Job:
        return Job(wanted.media, wanted.media, *wanted.content, wanted.duration_s, self.settings.decoding)

    def check(self, jobs: Iterator[Job]) -> None:
        return

    @contextlib.contextmanager
    def open(self, workers: int | None, jobs: int) -> Iterator[Executor]:
        training = self.model.training
        self.model.eval()
        try:
            yield _FeatureExecutor(self)
        finally:
            self.model.train(training)


class _FeatureExecutor:
    """Executor in this process: one video at a time, so that the features do not depend on what else is missing."""

    def __init__(self, origin: FrameFeatures) -> None:
        self.origin = origin

    def imap(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            yield job, self.run(job)

    def run(self, job: Job) -> Outcome:
        video, decoding = self.origin.cache[job.media], self.origin.settings.decoding
        features = frame_features(self.origin.model, self.origin.processor, video.images)
        stored = features.astype(DTYPES[decoding[EXTENSION]])
        rows, cols = (1, 1) if stored.ndim == 2 else stored.shape[2:]
        pictures = [frame.tobytes() for frame in stored]
        return lay_out(job.media, job.sha256, job.decoder, decoding, video.times, (rows, cols), pictures)


@torch.inference_mode()
def frame_features(model: Any, processor: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the features (N, ...) of frames (N, H, W, 3) that `model.encode_features` takes."""
    device = next(model.parameters()).device
    found = []
    for start in range(0, len(images), FRAMES_AT_ONCE):
        squares = np.stack([processor.square(image) for image in images[start : start + FRAMES_AT_ONCE]])
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).to(device)
        found.append(model.frame_features(pixels).float().cpu().numpy())
    return np.concatenate(found)


def feature_settings(model: Any, processor: Any, cache: FrameCache) -> dict[str, Any]:
    """Return what determines the features: the backbone's weights, its input, the kind of features and the frames."""
    config = model.config
    backbone = model.clipbert.vision.backbone
    found = hashlib.sha256(json.dumps([config.vision, config.image_mean, config.image_std], sort_keys=True).encode())
    for name, value in sorted(backbone.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    size = processor.image_size
    with torch.inference_mode():
        training = model.training
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=next(model.parameters()).device)
        shape = list(model.eval().frame_features(blank).shape[1:])
        model.train(training)
    return {
        "format": FORMAT,
        "vision": config.vision["model_type"],
        "backbone": found.hexdigest(),
        "image_size": size,
        "resize": processor.resize,
        "shape": shape,
        # means are small, and in float32 a score from the cache is the score from pixels
        EXTENSION: "f32" if len(shape) == 1 else "f16",
        FRAMES: dict(cache.settings),
    }


def features_folder(parent: Path, settings: dict[str, Any]) -> Path:
    """Return the folder of the features of a backbone below `parent`."""
    digest = hashlib.sha256(json.dumps(backbone_settings(settings), sort_keys=True).encode()).hexdigest()
    return parent / f"{settings['vision']}-{digest[:12]}"


def open_features(parent: Path, model: Any, processor: Any, cache: FrameCache) -> FeatureCache:
    """Return the features of every frame of a frame cache, after computing those that are missing.

    Args:
        parent: the folder of feature caches, `artifacts/features`.
        model: a task model whose backbone stays as it is.
        processor: makes squares of the frames.
        cache: the frames.

    Raises:
        ClipBertError: the folder of this backbone holds the features of another one, or cannot be written.
        CorruptShardError: a frame fails its checksum.
    """
    if model.pretrained is not None:
        raise ClipBertError(
            "train.feature_cache is true, but model.dual_encoder reads more of a frame than the backbone's feature "
            "map. Set train.feature_cache to false."
        )
    return _update_features(parent, model, processor, cache, feature_settings(model, processor, cache))


def _update_features(
    parent: Path, model: Any, processor: Any, cache: FrameCache, settings: dict[str, Any]
) -> FeatureCache:
    folder = features_folder(parent, settings)
    parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def waiting() -> None:
        console.print(f"features: waiting for another process that computes {folder}")

    with file_lock(parent / f".{folder.name}.wait.lock", timeout_s=-1, on_wait=waiting):
        check_backbone(folder, settings)
        whole = Settings(settings, SHARD_BYTES)
        origin = FrameFeatures(cache, model, processor, whole)
        build = update_cache(folder, cache.contents, whole, FramesParams(), origin)
    features = FeatureCache(folder)
    if build.decoded:
        kept = len(features) - build.decoded
        console.print(
            f"features: {build.decoded} media computed, {kept} kept, {features.nbytes / 1e6:.1f} MB in {folder} "
            f"({time.monotonic() - started:.1f} s)"
        )
    return features


def find_features(parent: Path, model: Any, processor: Any, cache: FrameCache) -> FeatureCache | None:
    """Return the features of every frame if there is a cache of this model's backbone, else None.

    Features of frames that it lacks are computed.

    Raises:
        ClipBertError, CorruptShardError: as `open_features`.
    """
    if not parent.is_dir() or model.pretrained is not None:
        return None
    settings = feature_settings(model, processor, cache)
    if not (features_folder(parent, settings) / INDEX_FILE).is_file():
        return None
    return _update_features(parent, model, processor, cache, settings)


def check_backbone(folder: Path, settings: dict[str, Any]) -> None:
    """Check that a feature cache that exists in `folder` is that of these settings, except for its frames.

    Raises:
        ClipBertError: naming the folder and the settings that differ.
    """
    if not (folder / INDEX_FILE).is_file():
        return
    try:
        found = Index(folder / INDEX_FILE).settings.decoding
    except ClipBertError:
        return  # a damaged index is made again
    expected, held = backbone_settings(settings), backbone_settings(found)
    differing = [
        f"{name} {held.get(name)!r}, expected {expected[name]!r}"
        for name in expected
        if held.get(name) != expected[name]
    ]
    if differing:
        raise ClipBertError(
            f"{folder}: holds the features of another backbone ({'; '.join(differing)}). Its files come from another "
            "folder; remove it and rerun the command, which computes the features again."
        )
