"""Tiny videos whose every picture says its own number, and manifests over them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa

from clipbert.config.schema import FramesParams
from clipbert.data.manifest import VIDEOS_SCHEMA, write_table
from clipbert.files.atomic import sha256_file

BITS = 8
PARAMS = FramesParams(fps=2.0, size=32, quality=90, shard_mb=0.03, max_frames=64, timeout_s=30.0)


def numbered(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture (H, W, 3) with `number` written in it as eight black or white columns."""
    columns = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(columns, np.uint8), width // BITS)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(image: np.ndarray) -> int:
    """The number in a picture of `numbered`, of any size."""
    _, width, _ = image.shape
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return sum(1 << bit for bit, x in enumerate(middles) if image[:, x].mean() > 127)


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    times_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    gop: int = 12,
    rotation: int = 0,
    mirrored: bool = False,
    aspect: Fraction = Fraction(1),
    b_frames: int = 0,
    pixels: str = "yuv420p",
) -> Path:
    """Encode pictures; shown from `times_ms` on, or at 10 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = pictures[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1  # encoders' threads wait for each other in busy loops
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.sample_aspect_ratio = aspect
        if times_ms is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times_ms is None:
                frame.pts, frame.time_base = number, Fraction(1, 10)
            else:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_manifest(data: Path, out: Path) -> Path:
    """Write the videos table over all files of a data folder, with the columns that matter to the frames stage."""
    filling = {pa.string(): "", pa.float64(): 1.0, pa.int32(): 1, pa.int64(): 1}
    rows = []
    for path in sorted(file for file in data.rglob("*") if file.is_file()):
        row = {field.name: None if field.nullable else filling[field.type] for field in VIDEOS_SCHEMA}
        row["media"] = path.relative_to(data).as_posix()
        row["kind"], row["path_taken"] = ("image", "pil") if path.suffix == ".png" else ("video", "decord")
        row["sha256"] = sha256_file(path)
        rows.append(row)
    out.mkdir(parents=True, exist_ok=True)
    with write_table(out / "videos.parquet", VIDEOS_SCHEMA) as table:
        for row in rows:
            table.add(row)
    return out
