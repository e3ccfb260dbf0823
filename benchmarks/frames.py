"""The frame cache in figures: speed of the stage, cost of a change, random access, memory.

    python benchmarks/frames.py                          # all of it, on made videos
    python benchmarks/frames.py --only speed access --data FOLDER [FOLDER ...]   # on real ones

Made videos are encoded with x264 from moving noise and gradients, a few dozen of them, and then copied with other
trailing bytes, so that every file has its own checksum. Things that are compared run in turn in one process tree.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from clipbert.config.schema import FramesParams
from clipbert.data.manifest import VIDEOS_SCHEMA, write_table
from clipbert.files.atomic import sha256_file
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.build import build_cache
from clipbert.sampling.candidates import decode_file

PROJECT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0))
PARAMS = FramesParams()
VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov"}


@dataclass
class Row:
    """One line of the table."""

    what: str
    value: str
    ratio: float | None = None
    wanted: str = ""


def make_video(path: Path, seed: int, seconds: float, size: tuple[int, int], fps: int = 25) -> None:
    """A real h264 file: a gradient and a textured square that moves over it."""
    generator = np.random.default_rng(seed)
    width, height = size
    ground = np.linspace(0, 200, width)[None, :, None] + generator.integers(0, 40, (height, 1, 3))
    texture = generator.integers(0, 256, (height // 3, width // 3, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(round(seconds * fps)):
            picture = ground.astype(np.uint8).copy()
            x = (index * 3 + seed * 7) % (width - texture.shape[1])
            picture[height // 4 : height // 4 + texture.shape[0], x : x + texture.shape[1]] = texture
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def make_data(data: Path, count: int, different: int, seconds: float, size: tuple[int, int], first: int = 0) -> None:
    """`count` videos below data/videos, `different` of them encoded, the others copies with another end."""
    originals = []
    for seed in range(min(different, count)):
        path = data.parent / "originals" / f"{size[0]}-{seconds:g}-{seed}.mp4"
        if not path.exists():
            make_video(path, seed, seconds, size)
        originals.append(path.read_bytes())
    (data / "videos").mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        # a box of type `free`, which every reader skips
        tail = (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")
        name = random.Random(number).randrange(10**8)
        (data / "videos" / f"{name:08d}-{number}.mp4").write_bytes(originals[number % len(originals)] + tail)


def write_manifest(data: Path, out: Path) -> Path:
    """The videos table, with the columns that the stage reads."""
    filling: dict[Any, Any] = {pa.string(): "", pa.float64(): 10.0, pa.int32(): 1, pa.int64(): 1}
    rows = []
    for path in sorted(path for path in data.rglob("*") if path.suffix in VIDEO_SUFFIXES):
        row = {field.name: None if field.nullable else filling[field.type] for field in VIDEOS_SCHEMA}
        row |= {"media": path.relative_to(data).as_posix(), "kind": "video", "path_taken": "decord"}
        rows.append(row | {"sha256": sha256_file(path)})
    out.mkdir(parents=True, exist_ok=True)
    with write_table(out / "videos.parquet", VIDEOS_SCHEMA) as table:
        for row in rows:
            table.add(row)
    return out


def decode_only(path: str) -> int:
    """What the plain loop does with a file."""
    return len(decode_file(path, "decord", PARAMS.fps, PARAMS.size, PARAMS.max_frames).times)


def timed(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def cpu_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def quiet_build(data: Path, manifest: Path, out: Path, fresh: bool = True) -> float:
    """Seconds of the stage in this process."""
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    return timed(lambda: build_cache(data, manifest, out, PARAMS, max_quarantined_fraction=0.5))


def measure_speed(root: Path, folders: list[Path], repeats: int) -> list[Row]:
    """The stage (decode, JPEG, checksums, shards) against a loop that only decodes, both on every core."""
    data = root / "speed" / "data"
    if folders:
        for number, folder in enumerate(folders):
            shutil.copytree(folder, data / f"{number}", dirs_exist_ok=True)
    else:
        make_data(data, 300, 24, 10, (320, 240))
    manifest = write_manifest(data, data.parent / "manifest")
    files = [str(data / media) for media in pq.read_table(manifest / "videos.parquet")["media"].to_pylist()]
    frames = 0
    loops: list[tuple[float, float]] = []
    stages: list[tuple[float, float]] = []
    for _ in range(repeats):

        def loop() -> None:
            nonlocal frames
            with multiprocessing.get_context("spawn").Pool(CORES) as pool:
                frames = sum(pool.imap_unordered(decode_only, files, chunksize=4))

        for work, found in ((loop, loops), (lambda: quiet_build(data, manifest, data.parent / "frames"), stages)):
            cpu = cpu_s()
            found.append((timed(work), cpu_s() - cpu))
    ratio, cpu_ratio = (statistics.median(a[i] / b[i] for a, b in zip(loops, stages, strict=True)) for i in range(2))
    cpu = [statistics.median(seconds for _, seconds in found) for found in (loops, stages)]
    size = sum(path.stat().st_size for path in (data.parent / "frames").iterdir())
    name = f"{len(files)} {'given' if folders else 'made'} videos, {frames} frames"
    return [
        Row(f"plain loop over the decoder, {name}, s", spread([wall for wall, _ in loops])),
        Row(
            "frames stage, the same files, s", spread([wall for wall, _ in stages]), ratio, ">= 0.9 of the loop's speed"
        ),
        Row("  the two in processor seconds", f"{cpu[0]:.1f}, {cpu[1]:.1f}", cpu_ratio),
        Row("  videos for each processor second", f"{len(files) / cpu[1]:.1f}"),
        Row("  cache bytes a frame", f"{size / frames:.0f}"),
    ]


def measure_change(root: Path, count: int, repeats: int) -> list[Row]:
    """Add one percent of the videos, in this process and as a command."""
    data, manifest, out = root / "change" / "data", root / "change" / "artifacts" / "manifest", root / "change"
    out = out / "artifacts" / "frames"
    make_data(data, count, 24, 6, (320, 240))
    (data.parent / "params.yaml").write_text("seed: 0\n")
    write_manifest(data, manifest)
    full = quiet_build(data, manifest, out)
    adding, command = [], []
    added = count
    for _ in range(repeats):
        for seconds, run in (
            (adding, lambda: quiet_build(data, manifest, out, fresh=False)),
            (command, lambda: timed(lambda: clipbert("frames", cwd=data.parent))),
        ):
            make_data(data, count // 100, 24, 6, (320, 240), first=added)
            added += count // 100
            write_manifest(data, manifest)
            seconds.append(run())
    nothing = [quiet_build(data, manifest, out, fresh=False) for _ in range(repeats)]
    return [
        Row(f"full build of {count} made videos, s", f"{full:.2f}"),
        Row("1 % more, the stage, s", spread(adding), statistics.median(adding) / full, "<= 0.03"),
        Row("1 % more, the whole command, s", spread(command), statistics.median(command) / full, "<= 0.03"),
        Row("nothing more, the stage, s", spread(nothing)),
    ]


def clipbert(*arguments: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "clipbert", *arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def measure_access(root: Path, folders: list[Path], repeats: int) -> list[Row]:
    """Clips of two consecutive candidates at random places: from the cache, and from the files each time."""
    import io

    from PIL import Image

    data = root / "speed" / "data"
    if not data.exists():
        measure_speed(root, folders, 1)
    out = data.parent / "frames"
    cache = FrameCache(out)
    generator = np.random.default_rng(0)
    clips = []
    for media in generator.choice(cache.media, 400):
        first = int(generator.integers(0, max(1, cache.num_frames(media) - 1)))
        clips.append((str(media), [first, min(first + 1, cache.num_frames(media) - 1)]))
    jpegs = []
    for media, frames in clips:
        entry = cache._entry(media)
        shard = (out / entry.shard).read_bytes()
        jpegs += [shard[entry.frame_offsets[i] : entry.frame_offsets[i] + entry.frame_lengths[i]] for i in set(frames)]

    def from_cache() -> None:
        for media, frames in clips:
            cache.read(media, frames)

    def from_files() -> None:
        import decord
        from PIL import Image

        for media, frames in clips[:60]:
            reader = decord.VideoReader(str(data / media), num_threads=1)
            times = cache[media].times[frames]
            starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
            chosen = np.maximum(np.searchsorted(starts, times + starts[0] + 1e-3, side="right") - 1, 0)
            for picture in reader.get_batch(chosen).asnumpy():
                Image.fromarray(picture).resize(cache[media].images.shape[2:0:-1], Image.Resampling.BILINEAR)

    def bare() -> None:
        for jpeg in jpegs:
            with Image.open(io.BytesIO(jpeg)) as image:
                np.asarray(image)

    from_cache()
    cached, decoded, plain = [], [], []
    for _ in range(max(3, repeats)):
        # one thread each: processor time is the same as time on an idle machine
        cached.append(len(clips) / timed(from_cache, time.process_time))
        decoded.append(60 / timed(from_files, time.process_time))
        plain.append(len(jpegs) / 2 / timed(bare, time.process_time))
    fewer = statistics.median(a / b for a, b in zip(cached, plain, strict=True))
    # clips of one-frame videos hold one picture, so compare pictures with pictures
    share = fewer * len(jpegs) / (2 * len(clips))
    return [
        Row("decoding the file for every clip, clips a second", spread(decoded)),
        Row(
            "from the cache, clips a second",
            spread(cached),
            statistics.median(a / b for a, b in zip(cached, decoded, strict=True)),
            ">= 5",
        ),
        Row("bare JPEG decoding, clips a second", spread(plain), share, "cache >= 0.8 of it"),
    ]


def make_project(root: Path, count: int) -> Path:
    """A project with this repository's graph and tiny videos, all of it in git and DVC."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    make_data(root / "data", count, 24, 1, (64, 48))
    names = sorted(path.name for path in (root / "data" / "videos").iterdir())
    splits = random.Random(0).choices(("train", "val", "test"), (8, 1, 1), k=count)
    lines = [
        json.dumps({"id": str(number), "media": f"videos/{name}", "text": f"a square moves, {number}", "split": split})
        for number, (name, split) in enumerate(zip(names, splits, strict=True))
    ]
    (root / "data" / "captions.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(PROJECT / name, root / name)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["ingest"] |= {"duplicates": "keep", "max_quarantined_fraction": 0.5}
    params["validate"]["severity"]["near_duplicates"] = "warn"  # two dozen videos under many names
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(PROJECT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root


def repro(root: Path) -> float:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start = time.perf_counter()
    command = [sys.executable, "-m", "dvc", "repro", "frames"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - start


PEAK = """
import resource, sys
from clipbert.cli.main import main
sys.argv = ["clipbert", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(root: Path, verb: str) -> float:
    """The most memory that the process of a verb held; its workers have a limit of their own."""
    command = [sys.executable, "-c", PEAK, verb]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return int(done.stdout.rsplit("peak", 1)[1]) / 1024


def measure_scale(root: Path, few: int, many: int, repeats: int) -> list[Row]:
    """Memory of ingest and frames, a no-op repro, and what a reader's process holds of a large index."""
    peaks: dict[str, list[float]] = {"ingest": [], "frames": []}
    for count in (few, many):
        project = make_project(root / f"scale{count}", count)
        for verb, found in peaks.items():
            found.append(peak_mb(project, verb))
    repro(project)
    nothing = [repro(project) for _ in range(repeats)]
    cache = project / "artifacts" / "frames"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        own = pool.map(reader_memory, [str(cache)] * 4, chunksize=1)
    rows = [
        Row(f"{verb}, memory with {few} and {many} videos, MB", f"{a:.0f}, {b:.0f}", b / a, "flat")
        for verb, (a, b) in peaks.items()
    ]
    size = (cache / "index.arrow").stat().st_size / 1e6
    return [
        *rows,
        Row(f"no-op dvc repro with {many} videos, s", spread(nothing), None, "<= 5"),
        Row(f"a reader's own memory for an index of {many} ({size:.1f} MB), MB", spread(own)),
    ]


def reader_memory(path: str) -> float:
    """MB that only this process holds more after reading a frame of 2,000 videos all over a cache."""
    warm = FrameCache(path)
    first = warm.media[0]
    warm.read(first, [0])
    del warm
    process = psutil.Process()
    before = process.memory_full_info().uss
    cache = FrameCache(path)
    for place in np.linspace(0, len(cache) - 1, 2000).astype(int).tolist():
        cache.read(cache._index[place].media, [0])
    return (process.memory_full_info().uss - before) / 1e6


def main() -> None:
    parts = ("speed", "access", "change", "scale")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="these parts of the table")
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="folders of videos for speed and access")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--videos", type=int, default=2000, help="of the incremental build")
    parser.add_argument("--many", type=int, default=10_000, help="of the memory and no-op measurements")
    parser.add_argument("--work", type=Path, help="folder for the data; default: a temporary one")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="clipbert-frames-", dir=given.work) as folder:
        root = Path(folder)
        measures: dict[str, Callable[[], list[Row]]] = {
            "speed": lambda: measure_speed(root, given.data, given.repeats),
            "access": lambda: measure_access(root, given.data, given.repeats),
            "change": lambda: measure_change(root, given.videos, given.repeats),
            "scale": lambda: measure_scale(root, 100, given.many, given.repeats),
        }
        for part in parts:
            if part in given.only:
                rows += measures[part]()
    print(f"\n{CORES} cores; medians of {given.repeats} (least to most)")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        print(f"{row.what:<72} {row.value:>28} {ratio:>8}  {row.wanted}")
    if given.json:
        given.json.write_text(json.dumps([vars(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
