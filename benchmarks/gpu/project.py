"""The data that the GPU kit trains on: videos of a project packed small, or pictures drawn on the spot.

    python -m benchmarks.gpu.project PROJECT     # writes artifacts/gpu/project.tar.gz, at most 60 MB

PROJECT has a manifest, a frame cache and the parts of the recipe `small` in models/, as `RECIPE=small make run` or
`python -m benchmarks.real_videos ... --work PROJECT` leave them. The pack has up to 4 frames of each video as smaller
JPEG files, the texts, and the weights in 16 bits; word vectors that no text needs are zero, so that they compress.
Without a pack the kit draws pictures of colored shapes with captions and questions, and trains from random weights.
"""

import argparse
import contextlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from clipbert.config.schema import FramesParams
from clipbert.data.manifest import TEXTS_FILE, TEXTS_SCHEMA, read_texts, sign, write_table
from clipbert.files.checksums import write_checksums
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.index import Settings
from clipbert.frame_cache.job import Executor, Job, Outcome
from clipbert.frame_cache.plan import Wanted
from clipbert.frame_cache.shards import lay_out
from clipbert.frame_cache.update import update_cache
from clipbert.project import Project

PACK = "project.tar.gz"
PARTS = {"vision": "models/efficientnet-lite0", "text": "models/all-minilm-l6-v2"}
LARGEST = 60e6  # bytes of a pack; a carried working tree may have 64 MiB
FRAMES, QUALITY = 4, 50
SHARD_BYTES = 16 * 2**20
WORD_VECTORS = "embeddings.word_embeddings.weight"
COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 210), "yellow": (220, 200, 40)}
SHAPES = ("circle", "square", "triangle", "cross")

Pictures = Callable[
    [str], tuple[np.ndarray, list[bytes], tuple[int, int]]
]  # media to times, JPEG files, (height, width)


class PictureOrigin:
    """Origin of a cache whose pictures a function gives."""

    title = "pictures"

    def __init__(self, pictures: Pictures, settings: Settings) -> None:
        self.pictures, self.settings = pictures, settings

    def job(self, wanted: Wanted) -> Job:
        return Job(wanted.media, wanted.media, *wanted.content, wanted.duration_s, self.settings.decoding)

    def check(self, jobs: Iterator[Job]) -> None:
        return

    @contextlib.contextmanager
    def open(self, workers: int | None, jobs: int) -> Iterator[Executor]:
        yield self

    def imap(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            yield job, self.run(job)

    def run(self, job: Job) -> Outcome:
        times, pictures, size = self.pictures(job.media)
        return lay_out(job.media, job.sha256, job.decoder, self.settings.decoding, times, size, pictures)


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return a picture (H, W, 3) as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_cache(out: Path, contents: Any, decoding: dict[str, Any], pictures: Pictures) -> FrameCache:
    """Write a frame cache of the media in the table `contents`."""
    settings = Settings(decoding, SHARD_BYTES)
    out.parent.mkdir(parents=True, exist_ok=True)
    update_cache(out, contents, settings, FramesParams(), PictureOrigin(pictures, settings))
    return FrameCache(out)


def pack(source: Path, out: Path, frames: int = FRAMES, quality: int = QUALITY, largest: float = LARGEST) -> int:
    """Write a project's texts, fewer and smaller frames, and its pretrained parts to a tar file; return its bytes.

    Raises:
        SystemExit: a part is missing, or the file would be larger than `largest`.
    """
    project = Project(source)
    for name, folder in PARTS.items():
        if not (source / folder / "model.safetensors").is_file():
            raise SystemExit(
                f"{source / folder}: no weights for model.{name}. Make the project with the recipe small: "
                "RECIPE=small make run, or clipbert pretrained get"
            )
    whole, texts = FrameCache(project.frames), read_texts(project.manifest)
    with tempfile.TemporaryDirectory() as temporary:
        small = Project(Path(temporary))

        def pictures(media: str) -> tuple[np.ndarray, list[bytes], tuple[int, int]]:
            times = whole[media].times
            chosen = np.unique(np.linspace(0, len(times) - 1, min(frames, len(times))).round().astype(int))
            images = whole.read(media, chosen)
            return times[chosen], [jpeg(image, quality) for image in images], images.shape[1:3]

        decoding = whole.settings | {"quality": quality, "max_frames": frames}
        write_cache(small.frames, whole.contents, decoding, pictures)
        shutil.copytree(project.manifest, small.manifest)
        for name, folder in PARTS.items():
            pack_part(source / folder, small.root / folder, texts["text"].tolist() if name == "text" else None)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(out, "w:gz") as tar:
            tar.add(small.root, ".")
    size = out.stat().st_size
    if size > largest:
        out.unlink()
        raise SystemExit(
            f"{out}: {size / 1e6:.0f} MB, above the {largest / 1e6:.0f} that travel to a GPU machine. Give fewer "
            "--frames or a lower --quality."
        )
    return size


def pack_part(source: Path, out: Path, texts: list[str] | None) -> None:
    """Copy the folder of a pretrained part with its weights in 16 bits.

    Args:
        texts: of which the word vectors are kept; None: all.
    """
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors", "checksums.sha256"))
    weights = load_file(source / "model.safetensors")
    if texts is not None:
        from transformers import AutoTokenizer  # which the kit itself does not wait for

        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        kept = {*tokenizer.all_special_ids, *(word for ids in tokenizer(texts)["input_ids"] for word in ids)}
        name = next(name for name in weights if name.endswith(WORD_VECTORS))
        vectors = weights[name]
        unused = sorted(set(range(len(vectors))) - kept)
        weights[name] = vectors.index_fill(0, vectors.new_tensor(unused).long(), 0.0)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(halves, out / "model.safetensors", metadata={"format": "pt"})
    write_checksums(out, sorted(path for path in out.iterdir() if path.is_file()))


def content(number: int) -> tuple[str, str, str]:
    """Return the color and shape of what a drawn video shows, and the color behind it."""
    colors = list(COLORS)
    return colors[number % 4], SHAPES[number // 16 % 4], colors[(number // 4 + 1 + number) % 4]


def texts_of(number: int, media: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of a drawn video in the manifest: a caption and a question of each kind."""
    color, shape, ground = content(number)
    shared = {"media": media, "split": split, "media_kind": "video"}
    question = {"text": f"what color is the {shape}?", "answer_type": "color"}
    options = {"options": list(COLORS), "answer_index": list(COLORS).index(color)}
    return [
        {"id": f"{number} c", "kind": "caption", "text": f"a {color} {shape} on {ground}, number {number}", **shared},
        {"id": f"{number} q", "kind": "open_qa", "answer": color, **question, **shared},
        {"id": f"{number} m", "kind": "multiple_choice", **options, **question, **shared},
    ]


def draw(number: int, frame: int, size: int) -> np.ndarray:
    """Return the picture (size, size, 3) of a drawn video at a frame."""
    color, shape, ground = content(number)
    noise = np.random.default_rng([number, frame]).integers(0, 40, (size, size, 3), dtype=np.uint8)
    image = Image.fromarray(noise + np.array(COLORS[ground], np.uint8) // 2)
    pen, center, half = ImageDraw.Draw(image), size * (0.3 + 0.1 * (frame % 4)), size / 5
    box = (center - half, center - half, center + half, center + half)
    if shape == "circle":
        pen.ellipse(box, fill=COLORS[color])
    elif shape == "square":
        pen.rectangle(box, fill=COLORS[color])
    elif shape == "triangle":
        pen.polygon([(center, box[1]), (box[0], box[3]), (box[2], box[3])], fill=COLORS[color])
    else:
        pen.line((*box[:2], *box[2:]), fill=COLORS[color], width=size // 12)
        pen.line((box[0], box[3], box[2], box[1]), fill=COLORS[color], width=size // 12)
    return np.asarray(image)


def draw_project(root: Path, splits: dict[str, int], size: int, frames: int = FRAMES) -> Project:
    """Write a project of drawn videos: `splits` says how many of each split, `size` is the side in pixels."""
    project = Project(root)
    names = [split for split, count in splits.items() for _ in range(count)]
    media = [f"videos/{number:05d}.mp4" for number in range(len(names))]
    numbers = {name: number for number, name in enumerate(media)}
    count = len(media)
    contents = pa.table(
        {"media": media, "sha256": media, "path_taken": ["drawn"] * count, "duration_s": [float(frames)] * count}
    )
    decoding = FramesParams(size=size, max_frames=frames, quality=90)
    kept = {name: getattr(decoding, name) for name in ("fps", "size", "quality", "max_frames", "sampling")}

    def pictures(name: str) -> tuple[np.ndarray, list[bytes], tuple[int, int]]:
        drawn = [jpeg(draw(numbers[name], frame, size), decoding.quality) for frame in range(frames)]
        return np.arange(frames, dtype=np.float64), drawn, (size, size)

    write_cache(project.frames, contents, kept, pictures)
    project.manifest.mkdir(parents=True, exist_ok=True)
    with write_table(project.manifest / TEXTS_FILE, TEXTS_SCHEMA) as writer:
        for name, split in zip(media, names, strict=True):
            for row in texts_of(numbers[name], name, split):
                writer.add(row)
    sign(project.manifest)
    return project


def open_project(work: Path, tiny: bool = False) -> tuple[Project, str]:
    """Return the project of the kit in the folder `work` and where its data is from.

    It is unpacked or drawn the first time.

    Args:
        tiny: few and small pictures, for a check of the kit without a GPU.
    """
    archive = work / PACK
    packed = archive.is_file() and not tiny
    name = f"packed-{int(archive.stat().st_mtime)}" if packed else ("drawn-tiny" if tiny else "drawn")
    root = work / name
    if not root.is_dir():
        scratch = work / f".{name}.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        if packed:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
        elif tiny:
            draw_project(scratch, {"train": 24, "val": 8, "test": 8}, 64)
        else:
            draw_project(scratch, {"train": 400, "val": 60, "test": 80}, 224)
        scratch.rename(root)
    return Project(root), "videos of a project" if packed else "drawn pictures"


def main() -> None:
    """Pack a project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--out", type=Path, default=Path("artifacts/gpu") / PACK)
    parser.add_argument("--frames", type=int, default=FRAMES, help="of each video")
    parser.add_argument("--quality", type=int, default=QUALITY, help="of their JPEG files")
    options = parser.parse_args()
    size = pack(options.project, options.out, options.frames, options.quality)
    print(json.dumps({"file": str(options.out), "mb": round(size / 1e6, 1)}))


if __name__ == "__main__":
    main()
