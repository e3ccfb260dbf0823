"""Fixtures for every folder: tiny real videos, made in milliseconds."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_folder import shared_folder

pytest_plugins = ["suite"]

# Tests run on all cores by themselves; torch reads this when it is imported, here and in the processes of tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background jobs with SIGINT ignored, and programs started by tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def make_tiny_video(
    path: Path,
    frames: int = 16,
    fps: int = 8,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    seed: int = 0,
    rotation: int | None = None,
    mirrored: bool = False,
    pixel_aspect: int | None = None,
    start: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video whose frame i is one color with a white bar of i + 1 pixels; the seed changes the color.

    Args:
        size: (width, height) in pixels, as stored.
        rotation, mirrored: the display matrix, degrees counter-clockwise.
        start: time stamp of the first frame in frames; a negative one hides frames behind an edit list (mp4).
    """
    import av  # not on the GPU machine, where tests/gpu run

    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1  # encoders' threads wait for each other in busy loops
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0, hflip=mirrored)
        color = np.random.default_rng(seed).integers(0, 200, 3, dtype=np.uint8)
        for index in range(frames):
            picture = np.full((height, width, 3), color, np.uint8)
            picture[:, : index + 1] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                _mux(container, packet, start, fps)
        for packet in stream.encode():
            _mux(container, packet, start, fps)
    return path


def _mux(container: Any, packet: Any, start: int, fps: int) -> None:
    shift = round(start / fps / float(packet.time_base))
    packet.pts += shift
    packet.dts += shift
    container.mux(packet)


@pytest.fixture(scope="session")
def tiny_video() -> Callable[..., Path]:
    """`tiny_video(path, frames=16, fps=8, size=(64, 48), codec="libx264", ...)` writes a real video file."""
    return make_tiny_video


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_data(folder, train=2, val=1, test=1)` makes canonical data: videos/0.mp4, ..., one caption each."""
    store = tmp_path_factory.mktemp("tiny_data")

    def make(folder: Path, train: int = 2, val: int = 1, test: int = 1) -> Path:
        (folder / "videos").mkdir(parents=True)
        splits = ["train"] * train + ["val"] * val + ["test"] * test
        lines = []
        for index, split in enumerate(splits):
            made = store / f"{index}.mp4"
            if not made.exists():
                make_tiny_video(made, seed=index)
            (folder / "videos" / f"{index}.mp4").write_bytes(made.read_bytes())
            caption = {"id": f"c{index}", "media": f"videos/{index}.mp4", "text": f"a bar {index}", "split": split}
            lines.append(json.dumps(caption))
        (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_project(request: pytest.FixtureRequest) -> Path:
    """A project folder with a small sample set, its manifest and its frame cache; read it, don't write into it."""
    from clipbert.config.schema import Params
    from clipbert.data.ingest.stage import ingest
    from clipbert.data.synthetic.sample_set import make_sample_data
    from clipbert.frame_cache.build import build_cache

    params = Params.model_validate({"ingest": {"max_quarantined_fraction": 0.5}})

    def make(root: Path) -> None:
        make_sample_data(root / "data", train=24, val=8, test=8)
        ingest(root / "data", root / "artifacts" / "manifest", params.ingest)
        build_cache(root / "data", root / "artifacts" / "manifest", root / "artifacts" / "frames", params.frames)

    return shared_folder(request, "tiny_project", make)
