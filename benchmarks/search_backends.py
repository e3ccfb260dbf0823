"""Which library should hold the vectors of `clipbert search`? Recall, latency, size, build, memory and increments.

    python -m benchmarks.search_backends [--sizes 10000 100000 1000000] [--only NAME...] [--json OUT]

The vectors are synthetic, with the statistics of a trained model's: clusters of power-law sizes on the unit sphere, a
spectrum that falls as 1/k, and queries as those of texts: near one of the videos, but all displaced by the same offset
(the modality gap, Liang et al. 2022), so that no query looks like what a backend learned its structure from.

Each backend runs in a process of its own, with one query at a time as in a search. Recall@100 is against exact search
in float32. A build that would take longer than `--limit` seconds, by the rate at the size before, is skipped and its
estimate is printed. usearch, lancedb and hnswlib are not dependencies of the project: install them for this comparison.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

DIMENSION, TOP, QUERIES = 384, 100, 200
LIST_FACTOR, SAMPLES_PER_LIST = 2, 40
Vectors = NDArray[np.float32]


def unit(vectors: Vectors) -> Vectors:
    """Return the vectors with length 1."""
    found: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


def make_vectors(count: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Return the vectors of `count` clips and of `QUERIES` texts."""
    random = np.random.default_rng(seed)
    spectrum = (np.arange(1, DIMENSION + 1) ** -0.5).astype(np.float32)
    spectrum /= np.linalg.norm(spectrum)
    clusters = max(20, int(count**0.5))
    offset = random.normal(size=DIMENSION).astype(np.float32)
    offset /= np.linalg.norm(offset)
    centers = random.normal(size=(clusters, DIMENSION)).astype(np.float32) * spectrum
    sizes = (np.arange(clusters) + 1.0) ** -0.7
    owner = random.choice(clusters, size=count, p=sizes / sizes.sum())
    clips = np.empty((count, DIMENSION), np.float32)
    for start in range(0, count, 100_000):
        own = owner[start : start + 100_000]
        noise = random.standard_normal((len(own), DIMENSION), dtype=np.float32) * spectrum
        clips[start : start + len(own)] = unit(0.8 * centers[own] + 0.6 * noise)
    near = clips[random.choice(count, QUERIES, replace=False)]
    noise = random.standard_normal((QUERIES, DIMENSION), dtype=np.float32) * spectrum
    return clips, unit(0.6 * near + 0.5 * noise + 0.6 * offset)


class Exact:
    """Blocks of the matrix times the query, in numpy."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "vectors.npy"

    def build(self, clips: Vectors) -> None:
        np.save(self.file, clips)
        self.rows = np.load(self.file)

    def add(self, clips: Vectors) -> None:
        np.save(self.file.with_name("more.npy"), clips)

    def search(self, query: Vectors) -> NDArray[np.int64]:
        scores = self.rows @ query
        best = np.argpartition(-scores, TOP)[:TOP]
        return best.astype(np.int64)


class Torch(Exact):
    """As `Exact`, with bfloat16 rows in torch, rescored in float32 from the file."""

    def build(self, clips: Vectors) -> None:
        import torch

        super().build(clips)
        self.rows = np.load(self.file, mmap_mode="r")
        self.half = torch.from_numpy(clips).bfloat16()

    def search(self, query: Vectors) -> NDArray[np.int64]:
        import torch

        best = (self.half @ torch.from_numpy(query).bfloat16()).float().topk(4 * TOP).indices.numpy()
        scores = self.rows[np.sort(best)] @ query
        return np.sort(best)[np.argsort(-scores)[:TOP]].astype(np.int64)


class Faiss:
    """An index of faiss; `kind` is flat, fp16, sq8, ivf-fp16, ivf-sq8 or hnsw."""

    def __init__(self, folder: Path, kind: str, probe: int = 0) -> None:
        self.file, self.kind, self.probe = folder / "index.faiss", kind, probe

    def build(self, clips: Vectors) -> None:
        import faiss

        inner, scalar = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer
        types = {"fp16": scalar.QT_fp16, "sq8": scalar.QT_8bit}
        lists = int(LIST_FACTOR * len(clips) ** 0.5)
        self.parameters = None
        if self.kind == "flat":
            self.index: Any = faiss.IndexFlatIP(DIMENSION)
        elif self.kind in types:
            self.index = faiss.IndexScalarQuantizer(DIMENSION, types[self.kind], inner)
        elif self.kind == "hnsw":
            self.index = faiss.IndexHNSWFlat(DIMENSION, 32, inner)
            self.index.hnsw.efConstruction = 80
            self.parameters = faiss.SearchParametersHNSW(efSearch=self.probe)
        else:
            coarse = faiss.IndexFlatIP(DIMENSION)
            kind = types[self.kind.removeprefix("ivf-")]
            self.index = faiss.IndexIVFScalarQuantizer(coarse, DIMENSION, lists, kind, inner, False)
            self.index.cp.max_points_per_centroid = SAMPLES_PER_LIST
            self.index.parallel_mode = 1
            self.parameters = faiss.SearchParametersIVF(nprobe=self.probe)
        self.index.train(clips[np.random.default_rng(0).permutation(len(clips))[: SAMPLES_PER_LIST * lists]])
        self.index.add(clips)
        faiss.write_index(self.index, str(self.file))

    def add(self, clips: Vectors) -> None:
        import faiss

        self.index.add(clips)
        faiss.write_index(self.index, str(self.file))

    def search(self, query: Vectors) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.index.search(query[None], TOP, params=self.parameters)[1][0]
        return found


class Segments:
    """The segments of `clipbert.search`: faiss in half precision, mapped from a file; what is added is another one."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "vectors.faiss"

    def build(self, clips: Vectors) -> None:
        from clipbert.search.vectors import Vectors as Stored
        from clipbert.search.vectors import write_vectors

        if not self.file.is_file():
            write_vectors(self.file, clips.astype(np.float16))
        self.stored = Stored(self.file)

    def add(self, clips: Vectors) -> None:
        from clipbert.search.vectors import write_vectors

        write_vectors(self.file.with_name("more.faiss"), clips.astype(np.float16))

    def search(self, query: Vectors) -> NDArray[np.int64]:
        return self.stored.search(query, TOP)[1]


class Usearch:
    """HNSW of usearch with scalars of a type."""

    def __init__(self, folder: Path, kind: str, expansion: int) -> None:
        self.file, self.kind, self.expansion = folder / "index.usearch", kind, expansion

    def build(self, clips: Vectors) -> None:
        from usearch.index import Index

        self.index = Index(ndim=DIMENSION, metric="ip", dtype=self.kind, connectivity=16, expansion_add=64)
        self.index.expansion_search = self.expansion
        self.index.add(np.arange(len(clips)), clips)
        self.index.save(str(self.file))

    def add(self, clips: Vectors) -> None:
        self.index.add(np.arange(len(self.index), len(self.index) + len(clips)), clips)
        self.index.save(str(self.file))

    def search(self, query: Vectors) -> NDArray[np.int64]:
        return self.index.search(query, TOP).keys.astype(np.int64)


class Hnswlib:
    """HNSW of hnswlib."""

    def __init__(self, folder: Path, expansion: int) -> None:
        self.file, self.expansion = folder / "index.hnsw", expansion

    def build(self, clips: Vectors) -> None:
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=DIMENSION)
        self.index.init_index(max_elements=int(1.1 * len(clips)), M=16, ef_construction=80)
        self.index.add_items(clips)
        self.index.set_ef(self.expansion)
        self.index.save_index(str(self.file))

    def add(self, clips: Vectors) -> None:
        self.index.add_items(clips)
        self.index.save_index(str(self.file))

    def search(self, query: Vectors) -> NDArray[np.int64]:
        return self.index.knn_query(query[None], k=TOP)[0][0].astype(np.int64)


class Lance:
    """A table of lancedb with IVF and product quantization, refined by the exact vectors."""

    def __init__(self, folder: Path, probes: int, refine: int) -> None:
        self.folder, self.probes, self.refine = folder / "lance", probes, refine

    def _rows(self, clips: Vectors, first: int) -> Any:
        import pyarrow as pa

        flat = pa.FixedSizeListArray.from_arrays(pa.array(clips.reshape(-1)), DIMENSION)
        return pa.table({"id": pa.array(np.arange(first, first + len(clips))), "vector": flat})

    def build(self, clips: Vectors) -> None:
        import lancedb

        self.table = lancedb.connect(self.folder).create_table("clips", self._rows(clips, 0))
        self.indexed = len(clips) >= 50_000
        if self.indexed:
            lists = int(len(clips) ** 0.5)
            self.table.create_index(metric="dot", num_partitions=lists, num_sub_vectors=96, vector_column_name="vector")

    def add(self, clips: Vectors) -> None:
        self.table.add(self._rows(clips, self.table.count_rows()))

    def search(self, query: Vectors) -> NDArray[np.int64]:
        asked = self.table.search(query).distance_type("dot").select(["id"]).limit(TOP)
        asked = asked.nprobes(self.probes).refine_factor(self.refine) if self.indexed else asked
        return asked.to_arrow()["id"].to_numpy().astype(np.int64)


def probes(size: int) -> int:
    """Return how many lists of an inverted file are read: a quarter of them up to 40k vectors, a smaller part above."""
    return max(16, int(0.25 * LIST_FACTOR * size**0.5 * min(1.0, (40_000 / size) ** 0.5)))


BACKENDS: dict[str, Callable[[Path, int], Any]] = {
    "exact numpy": lambda folder, size: Exact(folder),
    "exact torch bf16": lambda folder, size: Torch(folder),
    "faiss flat": lambda folder, size: Faiss(folder, "flat"),
    "faiss fp16": lambda folder, size: Faiss(folder, "fp16"),
    "faiss sq8": lambda folder, size: Faiss(folder, "sq8"),
    "faiss ivf fp16": lambda folder, size: Faiss(folder, "ivf-fp16", probes(size)),
    "clipbert.search": lambda folder, size: Segments(folder),
    "faiss ivf sq8": lambda folder, size: Faiss(folder, "ivf-sq8", probes(size)),
    "faiss hnsw": lambda folder, size: Faiss(folder, "hnsw", 400),
    "usearch hnsw f16": lambda folder, size: Usearch(folder, "f16", 400),
    "usearch hnsw i8": lambda folder, size: Usearch(folder, "i8", 400),
    "hnswlib": lambda folder, size: Hnswlib(folder, 400),
    "lancedb ivf pq": lambda folder, size: Lance(folder, probes(size) // LIST_FACTOR, 5),
}


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def used(folder: Path) -> int:
    """Return the bytes of the files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(name: str, size: int, data: Path, keep: bool) -> dict[str, Any]:
    """Return the figures of one backend; the vectors are in `data`, and with `keep` the index stays there."""
    clips, queries, truth = (np.load(data / f"{part}.npy", mmap_mode="r") for part in ("clips", "queries", "truth"))
    with contextlib.ExitStack() as opened:
        folder = data / "index" if keep else Path(opened.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        backend = BACKENDS[name](folder, size)
        given = np.array(clips)
        started, cpu = time.monotonic(), time.process_time()
        backend.build(given)
        built, built_cpu = time.monotonic() - started, time.process_time() - cpu
        del given
        stored = used(folder)
        hits, seconds = 0, []
        cpu = time.process_time()
        for number, query in enumerate(np.array(queries)):
            started = time.monotonic()
            found = backend.search(query)
            seconds.append(time.monotonic() - started)
            hits += len(np.intersect1d(found, truth[number]))
        query_cpu = (time.process_time() - cpu) / len(queries)
        memory = resident_mb()
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        more, started = np.array(clips[:1000]), time.monotonic()
        backend.add(more)
        added = time.monotonic() - started
        same = all(path.exists() and path.stat().st_mtime_ns == moment for path, moment in before.items())
    p50, p95 = np.percentile(seconds[10:], [50, 95])
    return {
        "backend": name,
        "clips": size,
        "recall@100": round(hits / truth.size, 4),
        "p50_ms": round(1000 * p50, 2),
        "p95_ms": round(1000 * p95, 2),
        "query_cpu_ms": round(1000 * query_cpu, 2),
        "disk_mb": round(stored / 1e6, 1),
        "resident_mb": round(memory),
        "build_s": round(built, 1),
        "build_cpu_s": round(built_cpu, 1),
        "add_1000_s": round(added, 2),
        "old_files_kept": same,
    }


def prepare(size: int, data: Path) -> None:
    """Write the vectors of a size, the queries, and the true best clips of each query."""
    clips, queries = make_vectors(size)
    scores = queries @ clips.T
    for name, array in (("clips", clips), ("queries", queries), ("truth", np.argpartition(-scores, TOP)[:, :TOP])):
        np.save(data / f"{name}.npy", array)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(*(name for name in rows[0]))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=180).print(table)


def main() -> None:
    """Measure each backend at each size in processes of their own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--limit", type=float, default=150.0, help="CPU seconds of a build")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument("--work", type=Path, help="keep vectors and indexes there, and measure queries of them again")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one[0], options.sizes[0], Path(options.one[1]), bool(options.work))))
        return
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        with contextlib.ExitStack() as opened:
            if options.work is None:
                data = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            else:
                data = options.work / str(size)
                data.mkdir(parents=True, exist_ok=True)
            if not (data / "truth.npy").is_file():
                prepare(size, data)
            for name in options.only:
                known = [row for row in rows if row["backend"] == name]
                expected = known[-1]["build_cpu_s"] * (size / known[-1]["clips"]) ** 1.1 if known else 0.0
                if expected > options.limit:
                    print(f"{name}, {size} clips: not built, about {expected:.0f} CPU s", flush=True)
                    continue
                command = [sys.executable, "-m", "benchmarks.search_backends", "--sizes", str(size), "--one", name]
                command += [str(data)] if options.work is None else [str(data), "--work", str(options.work)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    print(f"{name}, {size} clips: failed", flush=True)
                    continue
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(json.dumps(rows[-1]), flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    show(rows)
    spent = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"CPU: {spent:.0f} s; free disk {shutil.disk_usage(tempfile.gettempdir()).free / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
