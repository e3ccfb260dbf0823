"""The embedded sample data set: what it holds, that it can be learned from honestly, and that its bytes never vary."""

import collections
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from clipbert.data.perceptual_hash import distance, visual_signature
from clipbert.data.synthetic import sample_set as sample
from clipbert.data.synthetic.encode import FORMATS, encode
from clipbert.data.synthetic.pictures import Picture, at_moment, encode_picture
from clipbert.data.synthetic.render import MARGIN, RGB, coverage, render, render_frame
from clipbert.data.synthetic.sample_set import make_sample_data
from clipbert.data.synthetic.scene import COLORS, FPS, FRAMES, SHAPES, SIDE, SIZES, UNSEEN, Scene, Thing, draw_scene
from clipbert.errors import ClipBertError

ANNOTATIONS = ("captions", "open_qa", "multiple_choice")
BROKEN = {f"videos/broken_{kind}.mp4" for kind in ("truncated", "random", "empty")}
LOOKS = re.compile(rf"\b({'|'.join(COLORS)}|{'|'.join(SHAPES)})\b")


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small") / "data"
    make_sample_data(out, train=12, val=4, test=6)
    return out


def test_its_media_are_told_by_name_and_size(small: Path) -> None:
    media = {path.relative_to(small).as_posix() for path in small.rglob("*.*") if path.suffix != ".jsonl"}
    assert {name for name in media if not sample.is_sample_media(name, SIDE, SIDE)} == BROKEN
    assert not sample.is_sample_media("videos/clip_0001.mp4", 640, 360)


@pytest.fixture(scope="module")
def plan() -> list[sample.Video]:
    return sample._plan(0, {"test": sample.TEST, "val": sample.VAL, "train": sample.TRAIN})


@pytest.fixture(scope="module")
def pictures(plan) -> list[Picture]:
    return sample._plan_pictures(0, {"test": sample.TEST, "val": sample.VAL, "train": sample.TRAIN}, plan)


@pytest.fixture(scope="module")
def full(tmp_path_factory, plan, pictures) -> Path:
    """The annotations of the whole set; its videos would take too long here."""
    folder = tmp_path_factory.mktemp("full")
    sample._write_texts(folder, 0, plan, pictures)
    return folder


def of(folder: Path, name: str, kind: str) -> list[dict]:
    """The rows about media of one kind: videos or images."""
    return [row for row in rows(folder, name) if row["media"].startswith(f"{kind}/")]


@pytest.mark.slow
def test_layout_follows_the_canonical_form(small):
    assert {path.name for path in small.iterdir()} == {"videos", "images", *(f"{name}.jsonl" for name in ANNOTATIONS)}
    videos, images = ({f"{kind}/{path.name}" for path in (small / kind).iterdir()} for kind in ("videos", "images"))
    assert videos > BROKEN
    assert (len(videos), len(images)) == (12 + 4 + 6 + 3, 8 + 2 + 4)
    fields = {
        "captions": ["id", "text", "media", "split"],
        "open_qa": ["id", "question", "answer", "answer_type", "media", "split"],
        "multiple_choice": ["id", "question", "options", "answer", "answer_type", "media", "split"],
    }
    for name in ANNOTATIONS:
        texts = rows(small, name)
        assert all(list(row) == fields[name] for row in texts)
        assert len({row["id"] for row in texts}) == len(texts)
        told = videos if name == "multiple_choice" else videos | images
        assert {row["media"] for row in texts} - BROKEN == told - BROKEN
    by_split = {row["media"]: row["split"] for row in rows(small, "open_qa")}
    splits = collections.Counter((media.split("/")[0], split) for media, split in by_split.items())
    assert splits == {
        ("videos", "train"): 12,
        ("videos", "val"): 4,
        ("videos", "test"): 6,
        ("images", "train"): 8,
        ("images", "val"): 2,
        ("images", "test"): 4,
    }
    captions = collections.Counter(row["media"] for row in rows(small, "captions"))
    assert {(by_split[name], number) for name, number in captions.items() if name not in BROKEN} == {
        ("train", 2),
        ("val", 1),
        ("test", 1),
    }


@pytest.mark.slow
def test_videos_decode_in_every_container(small):
    seen = set()
    for path in sorted((small / "videos").glob("clip_*")):
        with av.open(path) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            seen.add((path.suffix, stream.codec_context.name))
            assert stream.average_rate == FPS
        assert FRAMES[0] <= len(frames) <= FRAMES[1]
        assert frames[0].shape == (SIDE, SIDE, 3)
    assert seen == {(".mp4", "h264"), (".mov", "h264"), (".webm", "vp8"), (".webm", "vp9"), (".avi", "mpeg4")}


@pytest.mark.slow
def test_broken_files_cannot_be_read_and_one_has_a_caption(small):
    for name in BROKEN:
        with pytest.raises(av.FFmpegError):
            av.open(small / name)
    assert [row["media"] for row in rows(small, "captions") if row["media"] in BROKEN] == [sample.TRUNCATED]


def test_unseen_pairs_are_kept_from_training(plan, full):
    strange = collections.Counter(
        video.split
        for video in plan
        if any(
            (thing.color, thing.shape) in UNSEEN or (thing.new_color, thing.shape) in UNSEEN
            for thing in video.scene.things
        )
    )
    assert strange["train"] == 0
    assert strange["val"] >= 0.4 * sample.VAL
    assert strange["test"] >= 0.5 * sample.TEST
    assert {color for color, _ in UNSEEN} == set(COLORS)
    assert {shape for _, shape in UNSEEN} == set(SHAPES)
    told = [row["text"].lower() for row in rows(full, "captions") if row["split"] == "train"]
    assert not any(f"{color} {shape}" in text for text in told for color, shape in UNSEEN)


def test_test_captions_are_never_in_training_and_tell_videos_apart(plan, full):
    captions = of(full, "captions", "videos")
    by_split = {split: [row["text"] for row in captions if row["split"] == split] for split in ("train", "val", "test")}
    assert len(by_split["train"]) == 2 * sample.TRAIN + 1
    held = by_split["test"] + by_split["val"]
    assert len(set(held)) == len(held) == sample.TEST + sample.VAL
    assert set(held).isdisjoint(by_split["train"])
    assert len({video.scene.signature for video in plan}) == len(plan)


def test_questions_need_the_picture(full):
    questions = of(full, "open_qa", "videos")
    train, test = ([row for row in questions if row["split"] == s] for s in ("train", "test"))
    assert len(test) == 3 * sample.TEST
    answers = collections.Counter(row["answer"] for row in train)
    assert 30 <= len(answers) <= 40
    assert {row["answer"] for row in test} <= set(answers)
    assert max(collections.Counter(row["answer"] for row in test).values()) < 0.12 * len(test)
    easy = sum(row["answer_type"] in ("color", "shape", "count", "background") for row in test)
    assert 0.65 < easy / len(test) < 0.8

    for form in (lambda row: row["question"], lambda row: LOOKS.sub("*", row["question"])):
        known = collections.defaultdict(collections.Counter)
        for row in train:
            known[form(row)][row["answer"]] += 1
        usual = {question: counts.most_common(1)[0][0] for question, counts in known.items()}
        right = sum(usual.get(form(row)) == row["answer"] for row in test)
        assert right / len(test) < 0.35


def test_multiple_choice_has_four_or_five_distinct_options(full):
    questions = rows(full, "multiple_choice")
    assert len(questions) == 4 * sample.TRAIN + sample.VAL + sample.TEST
    assert len({(row["media"], row["question"], row["answer_type"]) for row in questions}) == len(questions)
    assert {len(row["options"]) for row in questions} == {4, 5}
    assert all(len(set(row["options"])) == len(row["options"]) for row in questions)
    assert all(0 <= row["answer"] < len(row["options"]) for row in questions)
    starts = ("What color", "What shape", "How many", "Where is", "How does", "What happens", "Which object appears")
    assert all(any(row["question"].startswith(start) for row in questions) for start in starts)
    places = collections.Counter(row["answer"] for row in questions)
    assert max(places.values()) < 0.3 * len(questions)


def test_what_there_was_before_the_pictures_is_as_it_was(full):
    """The videos' captions and open questions: their figures in the docs stay comparable."""
    parts = [(name, json.dumps(of(full, name, "videos"), ensure_ascii=False)) for name in ("captions", "open_qa")]
    assert {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in parts} == {
        "captions": "1164b146bb6eb28c",
        "open_qa": "380a6798183c3ff0",
    }


def test_pictures_show_what_no_video_does_and_look_like_none_of_another_split(plan, pictures):
    assert collections.Counter(picture.split for picture in pictures) == {"train": 700, "val": 60, "test": 120}
    told = {picture.still.signature for picture in pictures}
    assert len(told) == len(pictures)
    assert told.isdisjoint(video.scene.signature for video in plan)
    strange = collections.Counter(
        picture.split
        for picture in pictures
        if not UNSEEN.isdisjoint((thing.color, thing.shape) for thing in picture.still.things)
    )
    assert strange["train"] == 0
    assert strange["test"] >= 0.4 * 120
    hashes: dict[str, list[list[int]]] = {"train": [], "val": [], "test": []}
    for picture in pictures[::6]:
        luma = render_frame(picture.scene, picture.frame)[0].astype(np.uint8)
        hashes[picture.split].append(visual_signature(luma[None]).hashes)
    for one, two in (("test", "train"), ("test", "val"), ("val", "train")):
        assert min(distance(a, b) for a in hashes[one] for b in hashes[two]) > 6


def test_pictures_are_told_and_asked_of_without_motion(pictures, full):
    captions, questions = of(full, "captions", "images"), of(full, "open_qa", "images")
    moving = re.compile(
        r"\b(moves?|travels|slides|still|rests|appears?|shows up|vanishes|leaves|turns?|becomes?|then)\b"
    )
    assert not any(moving.search(row["text"]) for row in captions)
    assert not any(moving.search(row["question"]) for row in questions)
    assert len(questions) == 4 * len(pictures)
    assert {row["answer_type"] for row in questions} == {"color", "shape", "background", "count", "size", "position"}
    held = {row["text"] for row in rows(full, "captions") if row["split"] != "train"}
    assert held.isdisjoint(row["text"] for row in rows(full, "captions") if row["split"] == "train")
    trained = {row["answer"] for row in questions if row["split"] == "train"}
    assert {row["answer"] for row in questions} == trained
    counts = collections.Counter(row["answer"] for row in questions if row["split"] == "test")
    assert max(counts.values()) < 0.15 * counts.total()


@pytest.mark.slow
def test_a_picture_is_the_moment_it_says(small):
    for path in sorted((small / "images").iterdir()):
        with Image.open(path) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (SIDE, SIDE), "RGB")
    for frame, color in ((10, "red"), (20, "blue")):
        scene = turning_square()
        still = at_moment(scene, frame)
        (thing,) = still.things
        assert (thing.color, thing.motion, thing.event, still.frames) == (color, "still", "none", 1)
        with Image.open(io.BytesIO(encode_picture(scene, frame))) as picture:
            pixels = np.asarray(picture).astype(int)
        x, y = thing.center(0)
        assert abs(pixels[y, x] - RGB[color]).max() < 25
        assert abs(pixels[y, (x + SIZES["large"]) % SIDE] - 128).max() < 12


def turning_square(**changes: object) -> Scene:
    """A red square that appears in frame 4, moves right and is blue from frame 14 on."""
    square = Thing("red", "square", "large", "right", "turns", "blue", (30, 56), (80, 56), 4, 24, 14, "")
    scene = Scene("turn", 24, "x", (square,), "plain", "gray", "x", (1, 0), 1)
    return dataclasses.replace(scene, **changes)


def test_frames_show_what_the_scene_says():
    scene = turning_square()
    with av.open(io.BytesIO(encode(render(scene), FORMATS[0]))) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == 24
    assert abs(frames[0] - 128).max() < 12  # nothing yet, plain gray
    for number, center, color in ((4, (30, 56), "red"), (13, None, "red"), (14, None, "blue"), (23, (80, 56), "blue")):
        x, y = center or scene.things[0].center(number)
        assert abs(frames[number][y, x] - RGB[color]).max() < 25
        assert abs(frames[number][y, (x + SIZES["large"]) % SIDE] - 128).max() < 12


def test_shapes_have_their_sizes_and_differ():
    for size, pixels in SIZES.items():
        masks = {shape: coverage(shape, size) for shape in SHAPES}
        assert all(mask.shape == (pixels, pixels) and mask.max() == 16 for mask in masks.values())
        for a in SHAPES:
            for b in SHAPES[: SHAPES.index(a)]:
                assert abs(masks[a] - masks[b]).sum() > 0.1 * 16 * pixels * pixels, (a, b)
    assert coverage("ring", "large")[21, 21] == 0
    area = coverage("circle", "large").sum() / 16
    assert area == pytest.approx(np.pi * 21**2, rel=0.01)


def test_background_never_drifts_off_its_canvas():
    assert FRAMES[1] <= MARGIN
    for drift in ((1, 1), (-1, -1)):
        video = render(turning_square(drift=drift, frames=FRAMES[1], pattern="checkered"))
        assert video.shape == (FRAMES[1], SIDE * 3 // 2, SIDE)


def test_things_stay_in_lanes_that_do_not_overlap():
    for index in range(200):
        scene = draw_scene(random.Random(index), unseen=False)
        across = "yx".index(scene.axis)
        lanes = sorted((thing.start[across], SIZES[thing.size] // 2) for thing in scene.things)
        assert all(thing.start[across] == thing.end[across] for thing in scene.things)
        assert all(b - a - p - q >= -2 for (a, p), (b, q) in itertools.pairwise(lanes))


@pytest.mark.slow
def test_same_seed_same_bytes_whatever_the_number_of_workers(small, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "INLINE_BELOW", 0)
    make_sample_data(tmp_path / "again", train=12, val=4, test=6)
    assert digests(tmp_path / "again") == digests(small)


@pytest.mark.slow
def test_another_seed_gives_other_videos(small, tmp_path):
    make_sample_data(tmp_path / "other", seed=1, train=2, val=1, test=1)
    empty = hashlib.sha256(b"").hexdigest()
    assert set(digests(tmp_path / "other").values()) & set(digests(small).values()) == {empty}


@pytest.mark.slow
def test_every_question_of_some_kinds_and_no_other(small, tmp_path):
    make_sample_data(tmp_path / "motion", train=12, val=4, test=6, kinds=("direction", "order"))
    asked = [json.loads(line) for line in (tmp_path / "motion" / "open_qa.jsonl").read_text().splitlines()]
    assert {row["answer_type"] for row in asked} == {"direction", "order"}
    assert all(row["media"].startswith("videos/") for row in asked)
    assert len({(row["media"], row["question"]) for row in asked}) == len(asked)
    usual = [json.loads(line) for line in (small / "open_qa.jsonl").read_text().splitlines()]
    of_motion = [row for row in usual if row["answer_type"] in ("direction", "order")]
    assert len(asked) > 2 * len(of_motion)
    assert {(row["media"], row["answer_type"]) for row in of_motion} <= {(r["media"], r["answer_type"]) for r in asked}
    assert set(digests(tmp_path / "motion" / "videos").values()) == set(digests(small / "videos").values())
    with pytest.raises(ClipBertError, match="'speed': expected some of color, shape"):
        make_sample_data(tmp_path / "speed", train=2, val=1, test=1, kinds=("speed",))
    assert not (tmp_path / "speed").exists()


WITHOUT_SIMD = """
import ctypes, hashlib, random, sys
import av
from clipbert.data.synthetic import encode as sample_encode
from clipbert.data.synthetic.pictures import encode_picture
from clipbert.data.synthetic.render import render
from clipbert.data.synthetic.scene import draw_scene
if sys.argv[1] == "plain":
    library = next(line.split()[-1] for line in open("/proc/self/maps") if "libavutil" in line)
    ctypes.CDLL(library).av_force_cpu_flags(0)
    sample_encode.X264["x264-params"] += ":asm=0"
for index in range(3):
    scene = draw_scene(random.Random(index), True)
    video = render(scene)
    print("picture", hashlib.sha256(encode_picture(scene, 20)).hexdigest())
    print("pixels", hashlib.sha256(video).hexdigest())
    for form in sample_encode.FORMATS:
        print(form.container, form.codec, hashlib.sha256(sample_encode.encode(video, form)).hexdigest())
"""


@pytest.mark.slow
def test_same_bytes_on_a_cpu_without_vector_instructions():
    from numpy._core._multiarray_umath import __cpu_dispatch__

    no_simd = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__),
        "VPX_SIMD_CAPS": "0",
        "JSIMD_FORCENONE": "1",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-AVX512F,-SSE4_1,-SSE4_2,-ERMS",
        "PYTHONHASHSEED": "7",
    }
    printed = {}
    for kind, extra in (("full", {}), ("plain", no_simd)):
        command = [sys.executable, "-W", "ignore", "-c", WITHOUT_SIMD, kind]
        done = subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed[kind] = done.stdout.splitlines()
    assert len(printed["full"]) == 3 * (2 + len(FORMATS))
    assert printed["plain"] == printed["full"]


@pytest.mark.slow
def test_refuses_a_folder_that_holds_something(tmp_path):
    out = tmp_path / "data"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(ClipBertError, match=r"data: exists and is not an empty folder.*Move or delete"):
        make_sample_data(out, train=2, val=1, test=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.txt"]
    with pytest.raises(ClipBertError, match=r"mine\.txt: exists and is not an empty folder"):
        make_sample_data(out / "mine.txt", train=2, val=1, test=1)
    assert (out / "mine.txt").read_text() == "keep me"


@pytest.mark.slow
def test_fills_an_empty_folder(tmp_path):
    (tmp_path / "data").mkdir()
    make_sample_data(tmp_path / "data", train=2, val=1, test=1)
    assert (tmp_path / "data" / "captions.jsonl").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    write, written = Path.write_bytes, []

    def write_until_full(self, content):
        written.append(self)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    with pytest.raises(ClipBertError, match="no space left on the device"):
        make_sample_data(tmp_path / "data", train=4, val=1, test=1)
    assert list(tmp_path.iterdir()) == []
