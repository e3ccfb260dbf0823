"""Augmentation: what is drawn, what it does to pixels, and that it depends on seed, epoch and video alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from small_trainings import make_trainer, params

from clipbert.config.load import load_params
from clipbert.config.training import AugmentParams
from clipbert.errors import ClipBertError
from clipbert.feature_cache.build import open_features
from clipbert.frame_cache import FrameCache
from clipbert.tasks.batch import Batch
from clipbert.training.augmentation import augment, change_colors, crop_box
from clipbert.training.data import DistributedBatchSampler, TrainingSamples, training_batches
from clipbert.training.trainer import Trainer

PARAMS = Path(__file__).parents[2] / "params.yaml"
ALL = AugmentParams(min_crop_area=0.3, brightness=0.4, contrast=0.4, saturation=0.4, flip=0.5)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ramp(height: int = 60, width: int = 80) -> np.ndarray:
    """A frame with its column in red and its row in green."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(width), np.arange(height)[:, None]
    return frame


def test_crops_have_the_area_and_the_ratio_asked_for_and_lie_inside() -> None:
    settings, generator = AugmentParams(min_crop_area=0.25, max_crop_ratio=1.5), rng()
    boxes = np.array([crop_box(60, 80, settings, tuple(generator.random(4))) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 80 + 1e-9
    assert bottom.max() <= 60 + 1e-9
    cols, rows = (right - left) / 80, (bottom - top) / 60
    area, ratio = cols * rows, cols / rows
    assert 0.25 - 1e-9 <= area.min() < 0.27
    assert 0.97 < area.max() <= 1
    assert area.mean() == pytest.approx(0.625, abs=0.02)
    assert 1 / 1.5 - 1e-9 <= ratio.min() < 0.7
    assert 1.45 < ratio.max() <= 1.5 + 1e-9
    assert crop_box(60, 80, AugmentParams(min_crop_area=1.0), (0.5, 0.9, 0.5, 0.5)) == pytest.approx((0, 0, 80, 60))


def test_a_crop_is_that_part_of_the_frame_at_the_frames_size() -> None:
    settings = AugmentParams(min_crop_area=0.25, max_crop_ratio=1.0)
    (frame,) = augment(ramp()[None], settings, rng(3))
    left, top, right, bottom = crop_box(60, 80, settings, tuple(rng(3).random(8)[:4]))
    assert frame.shape == (60, 80, 3)
    columns, rows = frame[30, :, 0].astype(float), frame[:, 40, 1].astype(float)
    expected = left + (np.arange(80) + 0.5) / 80 * (right - left) - 0.5
    assert np.abs(columns - expected).max() < 1.5
    expected = top + (np.arange(60) + 0.5) / 60 * (bottom - top) - 0.5
    assert np.abs(rows - expected).max() < 1.5


def test_all_frames_of_a_video_get_the_same_change() -> None:
    frames = np.stack([ramp()] * 3)
    one, two, three = augment(frames, ALL, rng(1))
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)
    assert not np.array_equal(one, ramp())
    assert np.array_equal(augment(frames, ALL, rng(1))[0], one)
    assert not np.array_equal(augment(frames, ALL, rng(2))[0], one)


def test_the_defaults_change_nothing_and_flips_need_to_be_asked_for() -> None:
    assert not AugmentParams().enabled
    assert np.array_equal(augment(ramp()[None], AugmentParams(), rng()), ramp()[None])
    assert AugmentParams(flip=1.0).enabled
    assert np.array_equal(augment(ramp()[None], AugmentParams(flip=1.0), rng()), ramp()[None, :, ::-1])
    assert ALL.model_copy(update={"flip": 0.0}).enabled


def test_one_parameter_does_not_change_what_the_others_draw() -> None:
    cropped = AugmentParams(min_crop_area=0.3)
    bright = cropped.model_copy(update={"brightness": 0.5})
    plain, changed = (augment(ramp()[None], settings, rng(5))[0].astype(float) for settings in (cropped, bright))
    assert not np.array_equal(plain, changed)
    factor = 1 + 0.5 * (2 * rng(5).random(8)[5] - 1)
    assert np.abs(changed - np.clip(plain * factor, 0, 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("which", ["brightness", "contrast", "saturation"])
def test_colors_change_as_pillow_changes_them(which: str, factor: float) -> None:
    frame = rng().integers(0, 256, (32, 40, 3)).astype(np.uint8)
    factors = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0} | {which: factor}
    found = change_colors(frame[None], **factors)[0].astype(int)
    enhancer = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast}.get(which, ImageEnhance.Color)
    expected = np.asarray(enhancer(Image.fromarray(frame)).enhance(factor)).astype(int)
    assert np.abs(found - expected).max() <= 1
    if factor == 1.0:
        assert np.array_equal(found, frame)


@pytest.fixture(scope="module")
def trainer(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return make_trainer(tiny_project, tmp_path_factory.mktemp("augmentation"), "retrieval", params())


def samples(trainer: Trainer, cache: FrameCache | None = None, augmentation: AugmentParams = ALL) -> TrainingSamples:
    used = cache or trainer.cache
    return TrainingSamples(used, trainer.train_examples, trainer.task, trainer.model.config, 3, augmentation)


def batches(trainer: Trainer, num_workers: int = 0, start: int = 0, rank: int = 0, world: int = 1) -> list[Batch]:
    order = DistributedBatchSampler(len(trainer.train_examples), 8, 2, 3, start=start, rank=rank, world=world)
    return list(training_batches(samples(trainer), order, trainer.processor, num_workers, pin_memory=False))


def test_clips_and_texts_are_those_without_augmentation(trainer: Trainer) -> None:
    augmented, plain = samples(trainer), samples(trainer, augmentation=AugmentParams())
    for index in range(4):
        one, other = augmented.draw(1, index), plain.draw(1, index)
        assert (one.texts, one.ids, one.seed) == (other.texts, other.ids, other.seed)
        assert one.images is not None
        assert other.images is not None
        assert one.images.shape == other.images.shape
        assert not np.array_equal(one.images, other.images)
        again = augmented.draw(1, index)
        assert np.array_equal(one.images, again.images)
    assert not np.array_equal(augmented.draw(1, 0).images, augmented.draw(2, 0).images)


@pytest.mark.slow
def test_workers_ranks_and_a_resume_change_no_pixel(trainer: Trainer) -> None:
    whole = [batch.frames for batch in batches(trainer)]
    assert len(whole) == 6
    for one, other in zip(whole, batches(trainer, num_workers=2), strict=True):
        assert torch.equal(one, other.frames)
    assert all(torch.equal(one, other.frames) for one, other in zip(whole[2:], batches(trainer, start=2), strict=True))
    shares = [batches(trainer, rank=rank, world=2) for rank in range(2)]
    for one, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(one, torch.cat([first.frames, second.frames]))


def test_features_are_not_augmented(trainer: Trainer, tmp_path: Path) -> None:
    features = open_features(tmp_path, trainer.model, trainer.processor, trainer.cache)
    found, expected = samples(trainer, features), samples(trainer, features, AugmentParams())
    assert np.array_equal(found.draw(0, 1).images, expected.draw(0, 1).images)


def test_augmentation_needs_pixels() -> None:
    cached = ["train.freeze_vision=true", "train.feature_cache=true", "train.augment.min_crop_area=0.5"]
    with pytest.raises(ClipBertError, match=r"=0\.5: train: feature_cache is true, so no pixels are read .* augment"):
        load_params(PARAMS, cached)
    assert load_params(PARAMS, [*cached, "train.unfreeze_at=0.5"]).train.augment.enabled
    assert load_params(PARAMS, [cached[0], cached[2]]).train.augment.min_crop_area == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("min_crop_area=0", " = 0: expected greater than 0 (smallest area of a random resized crop"),
        ("max_crop_ratio=0.5", " = 0.5: expected greater than or equal to 1"),
        ("brightness=1.5", " = 1.5: expected less than or equal to 1"),
        ("flip=true", " = True: expected a valid number (probability of a horizontal flip"),
        ("hue=0.1", "unknown"),
    ],
)
def test_a_wrong_value_is_named(override: str, message: str) -> None:
    with pytest.raises(ClipBertError) as error:
        load_params(PARAMS, [f"train.augment.{override}"])
    assert f"train.augment.{override.partition('=')[0]}" in str(error.value)
    assert message in str(error.value)
