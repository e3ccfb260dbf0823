"""Looks: a video encoded, scaled, framed or cut otherwise is near; another one is far; blank ones match nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipbert.data.perceptual_hash import BLANK, distance, stretch, visual_signature

Pictures = NDArray[np.uint8]


def scenes(seed: int, count: int = 8, size: tuple[int, int] = (48, 64)) -> Pictures:
    """Smooth random pictures (count, height, width) that change slowly."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 255, (2, 6, 8))
    height, width = size
    found = []
    for share in np.linspace(0, 1, count):
        coarse = Image.fromarray(((1 - share) * base[0] + share * base[1]).astype(np.uint8))
        found.append(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)))
    return np.stack(found)


def scaled(pictures: Pictures) -> Pictures:
    return np.stack([np.asarray(Image.fromarray(picture).resize((40, 32))) for picture in pictures])


def noisy(pictures: Pictures) -> Pictures:
    noise = np.random.default_rng(1).normal(0, 6, pictures.shape)
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


def letterboxed(pictures: Pictures) -> Pictures:
    return np.pad(pictures, ((0, 0), (8, 8), (5, 5)), constant_values=16)


def brighter(pictures: Pictures) -> Pictures:
    return (pictures * 0.8 + 40).astype(np.uint8)


@pytest.mark.parametrize("change", [scaled, noisy, letterboxed, brighter])
def test_a_changed_copy_is_near_and_another_video_is_far(change: Callable[[Pictures], Pictures]) -> None:
    first, copy, other = (visual_signature(pictures) for pictures in (scenes(0), change(scenes(0)), scenes(2)))
    assert distance(first.hashes, copy.hashes) <= 4
    assert distance(copy.hashes, other.hashes) >= 15


def test_bars_change_neither_brightness_nor_motion() -> None:
    plain, framed = visual_signature(scenes(0)), visual_signature(letterboxed(scenes(0)))
    assert framed.brightness == pytest.approx(plain.brightness, abs=0.5)
    assert framed.motion == pytest.approx(plain.motion, abs=0.5)


def test_a_copy_with_fewer_pictures_is_compared_at_the_same_moments() -> None:
    moments = scenes(0, 16)
    assert distance(visual_signature(moments[1::2]).hashes, visual_signature(moments[2::4]).hashes) <= 6
    assert list(stretch([1, 2])) == [1, 1, 1, 1, 2, 2, 2, 2]
    assert list(stretch([])) == [BLANK] * 8


@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_a_blank_picture_matches_nothing_not_even_itself(level: int) -> None:
    pictures = np.full((3, 48, 64), level, np.uint8)
    flat = visual_signature(
        pictures + np.random.default_rng(0).integers(0, 2, pictures.shape, dtype=np.uint8) * (level < 255)
    )
    assert flat.hashes == [BLANK] * 3
    assert flat.brightness == pytest.approx(level, abs=1)
    assert distance(flat.hashes, flat.hashes) == 64


def test_brightness_and_motion() -> None:
    ramp = np.stack([np.full((40, 40), level, np.uint8) for level in (100, 110, 140)])
    found = visual_signature(ramp)
    assert found.brightness == pytest.approx(116.667)
    assert found.motion == pytest.approx(20.0)
    assert visual_signature(ramp[:1]).motion is None


def test_hashes_fit_the_manifest_and_any_size_has_one() -> None:
    for shape in ((1, 1, 1), (2, 3, 200), (1, 500, 7)):
        pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        assert all(-(2**63) <= value < 2**63 for value in visual_signature(pictures).hashes)
    assert distance([-1, 1], [-1, 1]) == 0


@pytest.mark.parametrize("pictures", [np.zeros((0, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4))])
def test_other_arrays_are_refused(pictures: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, H, W\) uint8 grey pictures"):
        visual_signature(pictures)
