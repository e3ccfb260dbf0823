"""Checks of `clipbert doctor`: versions, device, decoders, servers, disk and artifacts."""

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from clipbert.config.load import load_params
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.files.leftovers import scratch_folder
from clipbert.redact import redact

SUPPORTED_PYTHONS = ((3, 11), (3, 12))
MIN_FREE_GB = 5.0
CONNECT_TIMEOUT_S = 3.0
DECODE_TIMEOUT_S = 30.0
LOCAL_PREFECT = "http://127.0.0.1:4200/api"


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    what: str
    found: str
    problem: str | None = None  # what is wrong and how to fix it


def doctor(root: Path) -> list[str]:
    """Print a table of all findings for the project at `root`, then the problems; return the problems."""
    table = Table("", "found", box=None, pad_edge=False)
    problems = []
    checks = CHECKS if is_project(root) else (*MACHINE_CHECKS[:-1], check_no_project, MACHINE_CHECKS[-1])
    for check in checks:
        for finding in check(root):
            found = redact(finding.found)  # before the table wraps lines
            table.add_row(finding.what, Text(found, style="" if finding.problem is None else "red"))
            if finding.problem is not None:
                problems.append(f"{finding.what}: {finding.problem}")
    console.print(table)
    console.print()
    for problem in problems:
        console.print(f"- {problem}")
    console.print(f"{len(problems)} problem(s)." if problems else "No problems.")
    return problems


def check_python(_root: Path) -> Iterator[Finding]:
    """Check the interpreter and the platform."""
    version = platform.python_version()
    allowed = " or ".join(f"{major}.{minor}" for major, minor in SUPPORTED_PYTHONS)
    problem = f"{version}; ClipBERT needs {allowed}: make PYTHON=python3.12 install"
    supported = sys.version_info[:2] in SUPPORTED_PYTHONS
    yield Finding("Python", f"{version} ({sys.executable})", None if supported else problem)
    yield Finding("platform", f"{platform.platform()}, {' '.join(platform.libc_ver())}")


def check_packages(_root: Path) -> Iterator[Finding]:
    """Check the installed packages against the declared versions, those of the extra `pipeline` included."""
    try:
        declared = importlib.metadata.requires("clipbert") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("clipbert", "not installed", "not installed in this environment: make install")
        return
    for requirement in map(Requirement, declared):
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", "pipeline")):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "missing", "missing: make install")
            continue
        problem = f"{version} is installed, {requirement.specifier} is needed: make install"
        yield Finding(
            requirement.name, version, None if requirement.specifier.contains(version, prereleases=True) else problem
        )


def check_device(_root: Path) -> Iterator[Finding]:
    """Check the GPUs, and the processor with its cores and bf16 instructions."""
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
    """Check the decoders: PyAV writes a clip of eight frames, and decord reads it in a process that can be killed."""
    try:
        import av
    except ImportError as error:
        yield Finding("PyAV", "cannot be imported", f"cannot be imported ({error}): make install")
        return
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    yield Finding("PyAV", f"{av.__version__}, libavcodec {codec}")

    from clipbert.process_pool import KillablePool, WorkerError

    remedy = "videos are decoded by PyAV, which is slower. To fix it: make install"
    with scratch_folder() as folder, KillablePool(1, DECODE_TIMEOUT_S) as pool:
        clip = folder / "clip.mp4"
        _write_clip(clip)
        try:
            frames = pool.submit(count_frames, str(clip)).result()
        except (WorkerError, ImportError, RuntimeError) as error:
            yield Finding("decord", "does not decode", f"does not decode ({error}); {remedy}")
            return
    yield Finding("decord", "decodes", None if frames == 8 else f"reads {frames} of 8 frames; {remedy}")


def check_programs(root: Path) -> Iterator[Finding]:
    """Check the programs that are called: git is required, the others are optional."""
    git = _version("git", "--version")
    yield Finding("git", git or "missing", None if git else "missing; DVC needs it: apt install git")
    yield Finding("ffmpeg", _version("ffmpeg", "-version") or "missing (optional: PyAV has its own libraries)")
    yield Finding("java", _version("java", "-version") or "missing (optional)")


def check_project(root: Path) -> Iterator[Finding]:
    """Check the project folder: git, DVC, parameters, data and disk space."""
    inside = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=root, capture_output=True) if _has("git") else None
    if inside is not None and inside.returncode != 0:
        yield Finding("repository", "no git repository", f"{root} is not in a git repository: git init, and commit")
    elif not (root / ".dvc").is_dir() or not (root / "dvc.yaml").is_file():
        yield Finding("repository", "no DVC project", f"{root} has no .dvc or no dvc.yaml: cd to a clone of ClipBERT")
    else:
        yield Finding("repository", str(root))
    try:
        params = load_params(root / "params.yaml")
        yield Finding("params.yaml", f"preset {params.model.preset}, {params.train.precision}")
    except ClipBertError as error:
        yield Finding("params.yaml", "wrong", str(error))
    missing = "there is no data/: make run creates sample data; for your own videos, see docs/tutorial/own-data.md"
    yield Finding("data", "data/", None) if (root / "data").is_dir() else Finding("data", "none", missing)
    free = shutil.disk_usage(root).free / 1e9
    full = f"{free:.1f} GB free at {root}, at least {MIN_FREE_GB:g} GB needed: free some space"
    yield Finding("free disk", f"{free:.1f} GB", None if free >= MIN_FREE_GB else full)


def is_project(root: Path) -> bool:
    """Return whether a folder is a ClipBERT project: it has parameters or stages."""
    return (root / "params.yaml").is_file() or (root / "dvc.yaml").is_file()


def check_no_project(root: Path) -> Iterator[Finding]:
    """Report a folder without params.yaml and dvc.yaml, in which no project can be checked."""
    around = next((parent for parent in root.resolve().parents if is_project(parent)), None)
    remedy = f"cd {around}" if around else "cd to your clone, or clone ClipBERT"
    yield Finding(
        "project",
        "none in this folder",
        f"{root.resolve()} is not a ClipBERT project (no params.yaml, no dvc.yaml): {remedy}, and run "
        "`clipbert doctor` there",
    )


def check_artifacts(root: Path) -> Iterator[Finding]:
    """Check the files of the pipeline against their checksums."""
    from clipbert.cli.doctor_artifacts import damaged_artifacts

    for kind, checked, problems in damaged_artifacts(root):
        if checked is not None and not problems:
            yield Finding(kind, f"{checked}, undamaged")
        for problem in problems:
            yield Finding(kind, "damaged", problem)


def check_mlflow(root: Path) -> Iterator[Finding]:
    """Check the tracking store of MLFLOW_TRACKING_URI, or the embedded one."""
    uri = _without_credentials(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if uri.startswith(("http://", "https://")):
        trouble = _get(f"{uri.rstrip('/')}/health")
        wrong = f"{uri} does not answer ({trouble}): start it (make ui) or correct or unset MLFLOW_TRACKING_URI"
        yield Finding("MLflow", f"server {uri}", None if trouble is None else wrong)
        return
    if uri and not uri.startswith("sqlite:///"):
        yield Finding("MLflow", f"{uri.partition(':')[0]} database (MLFLOW_TRACKING_URI; not checked)")
        return
    store = Path(uri.removeprefix("sqlite:///")) if uri else root / "mlflow" / "mlflow.db"
    writable = os.access(store if store.exists() else store.parent, os.W_OK)
    if not writable:
        yield Finding("MLflow", f"store {store}", f"{store} is not writable: change its permissions")
    elif not store.exists():
        yield Finding("MLflow", f"store {store}, created by the first training")
    else:
        yield _misplaced(root, store) or _read_store(store)


def check_outbox(root: Path) -> Iterator[Finding]:
    """Check for metrics that wait for MLflow; a running training delivers its own."""
    try:
        from clipbert.release.outbox import pending_outboxes
    except ClipBertError:  # mlflow is missing, which check_packages reports
        return
    left = [outbox for outbox in pending_outboxes(root) if outbox.held_by is None]
    for outbox in left:
        remedy = f"not in MLflow yet: {outbox.text}; clipbert track sync, when its store answers"
        yield Finding("MLflow outbox", outbox.text, remedy)
    if not left:
        yield Finding("MLflow outbox", "empty")


def check_prefect(_root: Path) -> Iterator[Finding]:
    """Check the server that flows report to."""
    url = _without_credentials(os.environ.get("PREFECT_API_URL", ""))
    trouble = _get(f"{(url or LOCAL_PREFECT).rstrip('/')}/health")
    if trouble is None:
        yield Finding("Prefect", f"server {url or LOCAL_PREFECT}")
    elif url:
        wrong = f"{url} does not answer ({trouble}): start it (make ui) or correct or unset PREFECT_API_URL"
        yield Finding("Prefect", f"server {url}", wrong)
    else:
        yield Finding("Prefect", f"no server at {LOCAL_PREFECT}; flows start a temporary one")


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
    except ClipBertError:  # mlflow is missing, which check_packages reports
        return None
    problem = misplaced_paths(root) if store.resolve() == (root / "mlflow" / "mlflow.db").resolve() else None
    return Finding("MLflow", f"store {store}", problem) if problem else None


def _read_store(store: Path) -> Finding:
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
            (runs,) = database.execute("SELECT COUNT(*) FROM runs").fetchone()
    except sqlite3.Error as error:
        remedy = "move it away; the next run creates a new one, and DVC's cache still has the models"
        return Finding("MLflow", f"store {store}", f"{store} cannot be read ({error}): {remedy}")
    return Finding("MLflow", f"store {store}, {runs} run(s)")


def _get(url: str) -> str | None:
    """Return why `url` does not answer; None if it does."""
    import httpx

    try:
        answer = httpx.get(url, timeout=CONNECT_TIMEOUT_S, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error)
    return f"status {answer.status_code}" if answer.is_error else None


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
