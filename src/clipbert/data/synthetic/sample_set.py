"""Embedded sample data set: short videos and still pictures of colored shapes, with captions and questions.

Same seed, same bytes, on any x86-64 Linux with the pinned PyAV and Pillow wheels.
"""

import json
import multiprocessing
import os
import random
import re
import signal
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.console import progress
from clipbert.data.synthetic.captions import detailed_caption, short_caption
from clipbert.data.synthetic.choices import choice_question, more_choice_questions
from clipbert.data.synthetic.encode import FORMATS, encode
from clipbert.data.synthetic.pictures import Picture, encode_picture, plan_pictures
from clipbert.data.synthetic.questions import Question, every_question, open_questions
from clipbert.data.synthetic.render import render
from clipbert.data.synthetic.scene import SIDE, Scene, draw_scene
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, write_errors

TRAIN, VAL, TEST = 1100, 100, 160  # videos
UNSEEN_SHARE = {"train": 0.0, "val": 0.5, "test": 0.5}  # videos that show a (color, shape) pair new to training
QUESTIONS = {"train": 4, "val": 3, "test": 3}  # open questions per video
CHOICES = {"train": 4, "val": 1, "test": 1}  # multiple-choice questions per video
OTHER_FORMATS = 12  # training videos that are not h264 in mp4
INLINE_BELOW = 64  # up to this many videos are made without worker processes
MAX_WORKERS = 8
CHUNK = 8  # videos a worker takes at once
TRUNCATED = "videos/broken_truncated.mp4"
MEDIA_NAME = re.compile(r"videos/clip_\d{4}\.\w+|images/picture_\d{4}\.jpg")

Row = dict[str, Any]


@dataclass(frozen=True)
class Video:
    """One file to make, and its scene."""

    media: str
    split: str
    scene: Scene
    captions: tuple[str, ...]
    form: int  # index into FORMATS
    rng: random.Random  # continues the numbers from which the scene was drawn


def is_sample_media(media: str, width: int, height: int) -> bool:
    """Return whether a file has the name and the size in pixels of those of the sample set."""
    return MEDIA_NAME.fullmatch(media) is not None and (width, height) == (SIDE, SIDE)


def make_sample_data(
    out: Path, seed: int = 0, train: int = TRAIN, val: int = VAL, test: int = TEST, kinds: Collection[str] = ()
) -> None:
    """Make the data set in the folder `out`: captions, open and multiple-choice questions, videos/, images/.

    Besides the `train + val + test` videos there are pictures in proportion (700, 60 and 120 with the defaults), and
    three files that cannot be read, one of them with a caption.

    Args:
        out: the folder to make.
        seed: of scenes, texts and files.
        train: number of videos.
        val: number of videos.
        test: number of videos.
        kinds: ask every open question of these kinds, such as "direction", and no others; default: a few of all kinds.

    Raises:
        ClipBertError: `out` exists and is not an empty folder, or cannot be written, or a kind is unknown.
    """
    with write_errors(out):
        occupied = out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None)
    if occupied:
        raise ClipBertError(
            f"{out}: exists and is not an empty folder; the sample data set is made in a new one. "
            f"Move or delete {out} and run the command again, or name another place."
        )
    counts = {"test": test, "val": val, "train": train}
    videos = _plan(seed, counts)
    pictures = _plan_pictures(seed, counts, videos)
    with atomic_directory(out) as folder:
        _write_texts(folder, seed, videos, pictures, kinds)
        (folder / "videos").mkdir()
        (folder / "images").mkdir()
        with progress("sample data", len(videos) + len(pictures)) as advance:
            for media in _make_files([*videos, *pictures], folder):
                advance(1, media.media)
        _write_broken(folder, videos, seed)


def _plan(seed: int, counts: dict[str, int]) -> list[Video]:
    """Draw every scene and its captions in file order, without two videos that their captions cannot distinguish."""
    total = sum(counts.values())
    numbers = list(range(total))
    random.Random(f"{seed}-numbers").shuffle(numbers)
    videos: list[Video] = []
    scenes: set[object] = set()
    texts: set[str] = set()
    for split, count in counts.items():
        others = min(OTHER_FORMATS, count // 3) if split == "train" else 0
        for index in range(count):
            rng = random.Random(f"{seed}-{split}-{index}")
            unseen = index < round(count * UNSEEN_SHARE[split])
            while True:
                scene = draw_scene(rng, unseen)
                captions = [detailed_caption(rng, scene)]
                if split == "train":
                    captions.append(short_caption(rng, scene))
                if scene.signature not in scenes and texts.isdisjoint(captions):
                    break
            if split != "train":
                texts.update(captions)
            scenes.add(scene.signature)
            form = 1 + index % (len(FORMATS) - 1) if index < others else 0
            media = f"videos/clip_{numbers[len(videos)]:04d}{FORMATS[form].extension}"
            videos.append(Video(media, split, scene, tuple(captions), form, rng))
    return sorted(videos, key=lambda video: video.media)


def _plan_pictures(seed: int, counts: dict[str, int], videos: list[Video]) -> list[Picture]:
    texts: dict[str, set[str]] = {split: set() for split in counts}
    for video in videos:
        texts[video.split].update(video.captions)
    return plan_pictures(seed, counts, {video.scene.signature for video in videos}, texts)


def _write_texts(
    folder: Path, seed: int, videos: list[Video], pictures: list[Picture], kinds: Collection[str] = ()
) -> None:
    captions: list[Row] = []
    questions: list[Row] = []
    choices: list[Row] = []
    more: list[Row] = []
    for video in videos:
        place = {"media": video.media, "split": video.split}
        for text in video.captions:
            captions.append({"id": f"caption-{len(captions):05d}", "text": text, **place})
        every = every_question(random.Random(f"{seed}-questions-{video.media}"), video.scene, kinds)
        for asked in every if kinds else open_questions(video.rng, video.scene, QUESTIONS[video.split]):
            questions.append({"id": f"question-{len(questions):05d}", **_told(asked), **place})
        asked, options = choice_question(video.rng, video.scene)
        choices.append({"id": f"choice-{len(choices):05d}", **_chosen(asked, options), **place})
        rng = random.Random(f"{seed}-choices-{video.media}")
        for another, options in more_choice_questions(rng, video.scene, CHOICES[video.split] - 1, asked):
            more.append({"id": f"more-choice-{len(more):05d}", **_chosen(another, options), **place})
    lost = {"text": "A video that was cut off while it was copied.", "media": TRUNCATED, "split": "train"}
    captions.append({"id": f"caption-{len(captions):05d}", **lost})
    told = asked_of = 0
    for picture in pictures:
        place = {"media": picture.media, "split": picture.split}
        for text in picture.captions:
            captions.append({"id": f"picture-caption-{told:05d}", "text": text, **place})
            told += 1
        for asked in (one for one in picture.questions if not kinds or one.kind in kinds):
            questions.append({"id": f"picture-question-{asked_of:05d}", **_told(asked), **place})
            asked_of += 1
    for name, rows in (("captions", captions), ("open_qa", questions), ("multiple_choice", choices + more)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _told(asked: Question) -> Row:
    return {"question": asked.text, "answer": asked.answer, "answer_type": asked.kind}


def _chosen(asked: Question, options: list[str]) -> Row:
    answer = options.index(asked.answer)
    return {"question": asked.text, "options": options, "answer": answer, "answer_type": asked.kind}


def _make_files(media: Sequence[Video | Picture], folder: Path) -> Iterator[Video | Picture]:
    """Make every file, on all cores if there are many; yield each when it is done, in order."""
    jobs = [_job(item, folder / item.media) for item in media]
    if len(jobs) < INLINE_BELOW:
        for item, job in zip(media, jobs, strict=True):
            _make_file(job)
            yield item
        return
    workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            # The workers inherit the mask: Ctrl-C reaches this process alone, which ends them without their tracebacks.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                made = executor.map(_make_file, jobs, chunksize=CHUNK)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for item, _ in zip(media, made, strict=True):
                yield item
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


Job = tuple[Scene, int | None, int, Path]


def _job(item: Video | Picture, path: Path) -> Job:
    """Return (scene, frame or None for all, index into FORMATS, path), all that its process needs."""
    if isinstance(item, Picture):
        return item.scene, item.frame, 0, path
    return item.scene, None, item.form, path


def _make_file(job: Job) -> None:
    scene, frame, form, path = job
    path.write_bytes(encode(render(scene), FORMATS[form]) if frame is None else encode_picture(scene, frame))


def _write_broken(folder: Path, videos: list[Video], seed: int) -> None:
    whole = next(video for video in videos if video.media.endswith(".mp4"))
    content = (folder / whole.media).read_bytes()
    (folder / TRUNCATED).write_bytes(content[: len(content) * 6 // 10])
    (folder / "videos/broken_random.mp4").write_bytes(random.Random(f"{seed}-broken").randbytes(4096))
    (folder / "videos/broken_empty.mp4").write_bytes(b"")
