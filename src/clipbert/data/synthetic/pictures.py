"""Still pictures of the sample set: moments of scenes that no video shows, with captions and questions."""

import io
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipbert.data.perceptual_hash import BITS, visual_signature
from clipbert.data.synthetic.captions import picture_caption
from clipbert.data.synthetic.questions import STILL_KINDS, Question, draw_questions
from clipbert.data.synthetic.render import render_frame
from clipbert.data.synthetic.scene import SIDE, SIZES, Scene, draw_scene

SHARES = {"train": 7 / 11, "val": 0.6, "test": 0.75}  # pictures for each video of a split
UNSEEN_SHARE = {"train": 0.0, "val": 0.5, "test": 0.5}  # that show a (color, shape) pair new to training
QUESTIONS = 4  # per picture
ALIKE = 8  # bits of 64; pictures of different splits differ by more (validate.max_hash_distance is 6)


@dataclass(frozen=True)
class Picture:
    """One file to make: frame `frame` of `scene`; `still` is that moment, in which nothing moves."""

    media: str
    split: str
    scene: Scene
    frame: int
    still: Scene
    captions: tuple[str, ...]
    questions: tuple[Question, ...]


def plan_pictures(seed: int, videos: dict[str, int], scenes: set[object], texts: dict[str, set[str]]) -> list[Picture]:
    """Draw every picture, by the numbers of videos of the splits, with random numbers of its own.

    No picture has one of the signatures `scenes` of the videos or that of another picture, none looks like one of
    another split, and no caption of val or test stands in another split; `texts` holds the videos' captions by split.
    """
    counts = {split: round(videos[split] * SHARES[split]) for split in ("test", "val", "train")}
    numbers = list(range(sum(counts.values())))
    random.Random(f"{seed}-picture-numbers").shuffle(numbers)
    known = set(scenes)
    held, trained = texts["val"] | texts["test"], set(texts["train"])
    pictures: list[Picture] = []
    looks: dict[str, list[int]] = {split: [] for split in counts}
    for split, count in counts.items():
        for index in range(count):
            rng = random.Random(f"{seed}-picture-{split}-{index}")
            unseen = index < round(count * UNSEEN_SHARE[split])
            taken = held if split == "train" else held | trained
            while True:
                scene = draw_scene(rng, unseen)
                moments = _whole_moments(scene)
                if not moments:
                    continue
                frame = rng.choice(moments)
                still = at_moment(scene, frame)
                captions = [picture_caption(rng, still, detailed=True)]
                if split == "train":
                    captions.append(picture_caption(rng, still, detailed=False))
                if still.signature in known or not taken.isdisjoint(captions):
                    continue
                (seen,) = visual_signature(render_frame(scene, frame)[0][None].astype(np.uint8)).hashes
                if not _near(seen, (other for name in counts if name != split for other in looks[name])):
                    break
            looks[split].append(seen)
            known.add(still.signature)
            (trained if split == "train" else held).update(captions)
            questions = draw_questions(rng, still, QUESTIONS, STILL_KINDS)
            media = f"images/picture_{numbers[len(pictures)]:04d}.jpg"
            pictures.append(Picture(media, split, scene, frame, still, tuple(captions), tuple(questions)))
    return sorted(pictures, key=lambda picture: picture.media)


def _near(seen: int, others: Iterable[int]) -> bool:
    return any(((seen ^ other) % 2**BITS).bit_count() <= ALIKE for other in others)


def at_moment(scene: Scene, frame: int) -> Scene:
    """Return a single frame of a scene: its visible things at their positions, not moving."""
    things = tuple(
        replace(
            thing,
            color=thing.color_at(frame),
            motion="still",
            event="none",
            new_color=None,
            start=thing.center(frame),
            end=thing.center(frame),
            first=0,
            last=1,
            change=None,
        )
        for thing in scene.things
    )
    return replace(scene, kind="quiet", frames=1, things=things)


def encode_picture(scene: Scene, frame: int) -> bytes:
    """Return one frame as a JPEG file with bytes that depend on the pixels only."""
    y, u, v = render_frame(scene, frame)
    planes = [_full_range(y, 16, 219, 0), _full_range(u, 128, 224, 128), _full_range(v, 128, 224, 128)]
    channels = [planes[0], *(plane.repeat(2, axis=0).repeat(2, axis=1) for plane in planes[1:])]
    picture = Image.merge("YCbCr", [Image.fromarray(channel) for channel in channels])
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92, subsampling="4:2:0")
    return file.getvalue()


def _whole_moments(scene: Scene) -> list[int]:
    """Return the frames in which everything is visible and inside the picture."""

    def whole(frame: int) -> bool:
        return all(
            thing.first <= frame < thing.last
            and all(SIZES[thing.size] // 2 <= place <= SIDE - SIZES[thing.size] // 2 for place in thing.center(frame))
            for thing in scene.things
        )

    return [frame for frame in range(scene.frames) if whole(frame)]


def _full_range(plane: NDArray[np.int32], zero: int, span: int, at: int) -> NDArray[np.uint8]:
    """Convert limited-range levels to those of a JPEG file, 0 to 255, rounded in integers."""
    levels = ((plane - zero) * 510 + span) // (2 * span) + at
    return np.clip(levels, 0, 255).astype(np.uint8)
