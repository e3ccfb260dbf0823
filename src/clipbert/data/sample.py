"""The embedded sample data set: short videos of coloured shapes, made here, with captions and questions about them.

Same seed, same bytes, on any x86-64 Linux with the pinned PyAV wheel.
"""

import json
import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.console import progress
from clipbert.data.sample_captions import detailed_caption, short_caption
from clipbert.data.sample_choices import choice_question
from clipbert.data.sample_encode import FORMATS, encode
from clipbert.data.sample_questions import open_questions
from clipbert.data.sample_render import render
from clipbert.data.sample_scene import Scene, draw_scene
from clipbert.errors import ClipBertError
from clipbert.files import atomic_directory, write_errors

TRAIN, VAL, TEST = 1100, 100, 160  # videos
UNSEEN_SHARE = {"train": 0.0, "val": 0.5, "test": 0.5}  # videos that show a (color, shape) pair new to training
QUESTIONS = {"train": 4, "val": 3, "test": 3}  # open questions a video
OTHER_FORMATS = 12  # training videos that are not h264 in mp4
INLINE_BELOW = 64  # so few videos are made without worker processes
MAX_WORKERS = 8
CHUNK = 8  # videos a worker takes at once
TRUNCATED = "videos/broken_truncated.mp4"

Row = dict[str, Any]


@dataclass(frozen=True)
class Video:
    """One file to make, and what happens in it."""

    media: str
    split: str
    scene: Scene
    captions: tuple[str, ...]
    form: int  # index into FORMATS
    rng: random.Random  # goes on from where the scene was drawn


def make_sample_data(out: Path, seed: int = 0, train: int = TRAIN, val: int = VAL, test: int = TEST) -> None:
    """Make the data set in the folder `out`: captions, open and multiple-choice questions, videos/.

    Besides the `train + val + test` videos there are three files that cannot be read, one of them with a caption.

    Raises:
        ClipBertError: `out` exists and is not an empty folder, or cannot be written.
    """
    with write_errors(out):
        occupied = out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None)
    if occupied:
        raise ClipBertError(
            f"{out}: exists and is not an empty folder; the sample data set is made in a new one. "
            f"Move or delete {out} and run the command again, or name another place."
        )
    videos = _plan(seed, {"test": test, "val": val, "train": train})
    with atomic_directory(out) as folder:
        _write_texts(folder, videos)
        (folder / "videos").mkdir()
        with progress("sample data", len(videos)) as advance:
            for video in _make_files(videos, folder):
                advance(1, video.media)
        _write_broken(folder, videos, seed)


def _plan(seed: int, counts: dict[str, int]) -> list[Video]:
    """Draw every scene and its captions: no two videos that their captions cannot tell apart, in file order."""
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


def _write_texts(folder: Path, videos: list[Video]) -> None:
    captions: list[Row] = []
    questions: list[Row] = []
    choices: list[Row] = []
    for video in videos:
        place = {"media": video.media, "split": video.split}
        for text in video.captions:
            captions.append({"id": f"caption-{len(captions):05d}", "text": text, **place})
        for asked in open_questions(video.rng, video.scene, QUESTIONS[video.split]):
            told = {"question": asked.text, "answer": asked.answer, "answer_type": asked.kind}
            questions.append({"id": f"question-{len(questions):05d}", **told, **place})
        asked, options = choice_question(video.rng, video.scene)
        chosen = {"question": asked.text, "options": options, "answer": options.index(asked.answer)}
        choices.append({"id": f"choice-{len(choices):05d}", **chosen, **place})
    lost = {"text": "A video that was cut off while it was copied.", "media": TRUNCATED, "split": "train"}
    captions.append({"id": f"caption-{len(captions):05d}", **lost})
    for name, rows in (("captions", captions), ("open_qa", questions), ("multiple_choice", choices)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _make_files(videos: list[Video], folder: Path) -> Iterator[Video]:
    """Make every video file, over all cores when there are many; yields each as it is done, in order."""
    jobs = [(video.scene, video.form, folder / video.media) for video in videos]
    if len(videos) < INLINE_BELOW:
        for video, job in zip(videos, jobs, strict=True):
            _make_file(job)
            yield video
        return
    workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            for video, _ in zip(videos, executor.map(_make_file, jobs, chunksize=CHUNK), strict=True):
                yield video
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _make_file(job: tuple[Scene, int, Path]) -> None:
    scene, form, path = job
    path.write_bytes(encode(render(scene), FORMATS[form]))


def _write_broken(folder: Path, videos: list[Video], seed: int) -> None:
    whole = next(video for video in videos if video.media.endswith(".mp4"))
    content = (folder / whole.media).read_bytes()
    (folder / TRUNCATED).write_bytes(content[: len(content) * 6 // 10])
    (folder / "videos/broken_random.mp4").write_bytes(random.Random(f"{seed}-broken").randbytes(4096))
    (folder / "videos/broken_empty.mp4").write_bytes(b"")
