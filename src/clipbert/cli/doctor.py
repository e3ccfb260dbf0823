"""`clipbert doctor`: what this machine has, and what is wrong with it for the work of this project."""

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from clipbert.config.schema import load_params
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.files.leftovers import scratch_folder
from clipbert.redact import redact

PYTHONS = ((3, 11), (3, 12))
LEAST_FREE_GB = 5.0
PROBE_S = 3.0
DECODE_S = 30.0
PREFECT_HERE = "http://127.0.0.1:4200/api"


@dataclass(frozen=True)
class Finding:
    """One line of the table; `problem` says what is wrong and what to do, None when nothing is."""

    what: str
    found: str
    problem: str | None = None


def doctor(root: Path) -> list[str]:
    """Print a table of what the project at `root` finds on this machine, then what is wrong; return what is wrong."""
    table = Table("", "found", box=None, pad_edge=False)
    problems = []
    checks = CHECKS if is_project(root) else (*MACHINE_CHECKS[:-1], check_no_project, MACHINE_CHECKS[-1])
    for check in checks:
        for finding in check(root):
            found = redact(finding.found)  # before the table breaks lines
            table.add_row(finding.what, Text(found, style="" if finding.problem is None else "red"))
            if finding.problem is not None:
                problems.append(f"{finding.what}: {finding.problem}")
    console.print(table)
    console.print()
    for problem in problems:
        console.print(f"- {problem}", markup=False)
    console.print(f"{len(problems)} problem(s)." if problems else "Nothing is wrong.")
    return problems


def check_python(_root: Path) -> Iterator[Finding]:
    """The interpreter and the platform."""
    version = platform.python_version()
    allowed = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    wrong = f"{version}; ClipBERT needs {allowed}: make PYTHON=python3.12 install"
    yield Finding("Python", f"{version} ({sys.executable})", None if sys.version_info[:2] in PYTHONS else wrong)
    yield Finding("platform", f"{platform.platform()}, {' '.join(platform.libc_ver())}")


def check_packages(_root: Path) -> Iterator[Finding]:
    """The packages that this one declares, against the versions it asks for."""
    try:
        declared = importlib.metadata.requires("clipbert") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("clipbert", "not installed", "not installed in this environment: make install")
        return
    for requirement in map(Requirement, declared):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "missing", "missing: make install")
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        wrong = f"{version} is installed, {requirement.specifier} is needed: make install"
        yield Finding(requirement.name, version, None if fits else wrong)


def check_device(_root: Path) -> Iterator[Finding]:
    """What trains: the GPUs, or the processor with its cores and its bf16 instructions."""
    try:
        import torch
    except ImportError as error:
        yield Finding("device", "torch cannot be imported", f"torch cannot be imported ({error}): make install")
        return
    from clipbert.training.precision import has_bf16

    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if card.major >= 8 else "no bf16"
        yield Finding("device", f"cuda:{index} {card.name}, {card.total_memory / 2**30:.0f} GB, {bf16}")
    cores = len(os.sched_getaffinity(0))
    bf16 = "bf16 instructions" if has_bf16(torch.device("cpu")) else "no bf16 instructions"
    yield Finding("processor", f"{cores} cores, {bf16}, torch uses {torch.get_num_threads()} threads")


def check_decoders(_root: Path) -> Iterator[Finding]:
    """PyAV writes a clip of eight frames and decord, in a process that may crash or hang, reads it back."""
    try:
        import av
    except ImportError as error:
        yield Finding("PyAV", "cannot be imported", f"cannot be imported ({error}): make install")
        return
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    yield Finding("PyAV", f"{av.__version__}, libavcodec {codec}")

    from clipbert.process_pool import KillablePool, WorkerError

    remedy = "videos are decoded by PyAV, more slowly. To mend it: make install"
    with scratch_folder() as folder, KillablePool(1, DECODE_S) as pool:
        clip = folder / "clip.mp4"
        _write_clip(clip)
        try:
            frames = pool.submit(count_frames, str(clip)).result()
        except (WorkerError, ImportError, RuntimeError) as error:
            yield Finding("decord", "does not decode", f"does not decode ({error}); {remedy}")
            return
    yield Finding("decord", "decodes", None if frames == 8 else f"reads {frames} of 8 frames; {remedy}")


def check_programs(root: Path) -> Iterator[Finding]:
    """Programs beside Python: git is needed, the others serve a few things."""
    git = _version("git", "--version")
    yield Finding("git", git or "missing", None if git else "missing; DVC needs it: apt install git")
    yield Finding("ffmpeg", _version("ffmpeg", "-version") or "missing (not needed: PyAV brings its own libraries)")
    yield Finding("java", _version("java", "-version") or "missing (not needed by this version)")


def check_project(root: Path) -> Iterator[Finding]:
    """The folder itself: git, DVC, parameters, data, room on the disk."""
    inside = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=root, capture_output=True) if _has("git") else None
    if inside is not None and inside.returncode != 0:
        yield Finding("repository", "no git repository", f"{root} is in no git repository: git init, and commit")
    elif not (root / ".dvc").is_dir() or not (root / "dvc.yaml").is_file():
        yield Finding("repository", "no DVC project", f"{root} has no .dvc or no dvc.yaml: go to a clone of ClipBERT")
    else:
        yield Finding("repository", str(root))
    try:
        params = load_params(root / "params.yaml")
        yield Finding("params.yaml", f"preset {params.model.preset}, {params.train.precision}")
    except ClipBertError as error:
        yield Finding("params.yaml", "wrong", str(error))
    missing = "there is no data/: make run makes the sample set, docs/ says how to use your own videos"
    yield Finding("data", "data/", None) if (root / "data").is_dir() else Finding("data", "none", missing)
    free = shutil.disk_usage(root).free / 1e9
    full = f"{free:.1f} GB free at {root}, at least {LEAST_FREE_GB:g} are needed: free some"
    yield Finding("free disk", f"{free:.1f} GB", None if free >= LEAST_FREE_GB else full)


def is_project(root: Path) -> bool:
    """Return whether a folder is a ClipBERT project: it has parameters or stages."""
    return (root / "params.yaml").is_file() or (root / "dvc.yaml").is_file()


def check_no_project(root: Path) -> Iterator[Finding]:
    """A folder without params.yaml and dvc.yaml: nothing of a project can be checked in it."""
    around = next((parent for parent in root.resolve().parents if is_project(parent)), None)
    remedy = f"cd {around}" if around else "go to the folder of your clone, or clone ClipBERT"
    yield Finding(
        "project",
        "none in this folder",
        f"{root.resolve()} is not a ClipBERT project (no params.yaml, no dvc.yaml): {remedy}, and run "
        "`clipbert doctor` there",
    )


def check_artifacts(root: Path) -> Iterator[Finding]:
    """The files that the pipeline made, against their checksums."""
    from clipbert.cli.doctor_artifacts import damaged_artifacts

    for kind, checked, problems in damaged_artifacts(root):
        if checked is not None and not problems:
            yield Finding(kind, f"{checked}, whole")
        for problem in problems:
            yield Finding(kind, "damaged", problem)


def check_mlflow(root: Path) -> Iterator[Finding]:
    """The tracking store that MLFLOW_TRACKING_URI names, or the embedded one."""
    uri = _without_credentials(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if uri.startswith(("http://", "https://")):
        trouble = _get(f"{uri.rstrip('/')}/health")
        wrong = f"{uri} does not answer ({trouble}): start it (make ui) or correct or unset MLFLOW_TRACKING_URI"
        yield Finding("MLflow", f"server {uri}", None if trouble is None else wrong)
        return
    if uri and not uri.startswith("sqlite:///"):
        yield Finding("MLflow", f"{uri.partition(':')[0]} database (MLFLOW_TRACKING_URI; not tried)")
        return
    store = Path(uri.removeprefix("sqlite:///")) if uri else root / "mlflow" / "mlflow.db"
    writable = os.access(store if store.exists() else store.parent, os.W_OK)
    if not writable:
        yield Finding("MLflow", f"store {store}", f"{store} cannot be written: give yourself permission")
    elif not store.exists():
        yield Finding("MLflow", f"store {store}, made by the first training")
    else:
        yield _misplaced(root, store) or _read_store(store)


def check_outbox(root: Path) -> Iterator[Finding]:
    """What trainings have measured that MLflow does not have yet; a training that runs delivers its own."""
    try:
        from clipbert.release.outbox import waiting
    except ClipBertError:  # no mlflow; it is named among the packages
        return
    left = [outbox for outbox in waiting(root) if outbox.held_by is None]
    for outbox in left:
        remedy = f"not in MLflow yet: {outbox.text}; clipbert track sync, when its store answers"
        yield Finding("MLflow outbox", outbox.text, remedy)
    if not left:
        yield Finding("MLflow outbox", "nothing waits")


def check_prefect(_root: Path) -> Iterator[Finding]:
    """The server that flows report to."""
    url = _without_credentials(os.environ.get("PREFECT_API_URL", ""))
    trouble = _get(f"{(url or PREFECT_HERE).rstrip('/')}/health")
    if trouble is None:
        yield Finding("Prefect", f"server {url or PREFECT_HERE}")
    elif url:
        wrong = f"{url} does not answer ({trouble}): start it (make ui) or correct or unset PREFECT_API_URL"
        yield Finding("Prefect", f"server {url}", wrong)
    else:
        yield Finding("Prefect", f"no server at {PREFECT_HERE}; flows start a temporary one")


Check = Callable[[Path], Iterator[Finding]]
MACHINE_CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_device,
    check_decoders,
    check_programs,
    check_prefect,
)
CHECKS: tuple[Check, ...] = (
    *MACHINE_CHECKS[:-1],
    check_project,
    check_artifacts,
    check_mlflow,
    check_outbox,
    check_prefect,
)


def count_frames(path: str) -> int:
    """How many frames decord decodes of `path`."""
    from decord import VideoReader

    reader = VideoReader(path)
    return sum(1 for index in range(len(reader)) if reader[index].shape[2] == 3)


def _write_clip(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(8):
            picture = np.full((64, 64, 3), 30 * index, dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def _misplaced(root: Path, store: Path) -> Finding | None:
    """The finding about an embedded store in a project that was moved."""
    try:
        from clipbert.release.relocate import misplaced_paths
    except ClipBertError:  # no mlflow; it is named among the packages
        return None
    problem = misplaced_paths(root) if store.resolve() == (root / "mlflow" / "mlflow.db").resolve() else None
    return Finding("MLflow", f"store {store}", problem) if problem else None


def _read_store(store: Path) -> Finding:
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
            (runs,) = database.execute("SELECT COUNT(*) FROM runs").fetchone()
    except sqlite3.Error as error:
        remedy = "move it away; the next run makes a new one, and DVC's cache still has the models"
        return Finding("MLflow", f"store {store}", f"{store} cannot be read ({error}): {remedy}")
    return Finding("MLflow", f"store {store}, {runs} run(s)")


def _get(url: str) -> str | None:
    """What keeps `url` from answering; None when it answers."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_S):
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url


def _has(program: str) -> bool:
    return shutil.which(program) is not None


def _version(program: str, flag: str) -> str | None:
    if not _has(program):
        return None
    done = subprocess.run([program, flag], capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().split("\n", 1)[0]
