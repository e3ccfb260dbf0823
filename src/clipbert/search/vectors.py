"""Vectors of a segment in faiss, in half precision: compared one by one, from `INVERTED_FROM` on in an inverted file.

docs/concepts/architecture.md has the comparison of libraries that led to this choice.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipbert.errors import ClipBertError

INVERTED_FROM = 50_000  # clips of a segment
LISTS, SAMPLES_PER_LIST = 2, 40  # lists of an inverted file, times the root of the number of clips
FULL_SHARE_TO = 40_000  # clips up to which this share of the lists is read; of more clips, a smaller one
PROBED = 0.15
ADDED_AT_ONCE = 50_000


def _faiss() -> Any:
    """Return the module, whose stubs do not have what its Python layer adds.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    import faiss

    return faiss


def write_vectors(path: Path, vectors: NDArray[np.float16]) -> None:
    """Write unit vectors (N, P) as an index of faiss.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    faiss = _faiss()
    count, size = vectors.shape
    kind, inner = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    if count < INVERTED_FROM:
        index = faiss.IndexScalarQuantizer(size, kind, inner)
    else:
        lists = int(LISTS * count**0.5)
        index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(size), size, lists, kind, inner, False)
        index.cp.max_points_per_centroid = SAMPLES_PER_LIST
        chosen = np.random.default_rng(0).choice(count, min(count, lists * SAMPLES_PER_LIST), replace=False)
        index.train(vectors[np.sort(chosen)].astype(np.float32))
    for start in range(0, count, ADDED_AT_ONCE):
        index.add(vectors[start : start + ADDED_AT_ONCE].astype(np.float32))
    errors: list[OSError] = []
    with path.open("wb") as file:

        def write(data: bytes) -> int:
            try:  # an exception must not pass through the native code
                file.write(data)
            except OSError as error:
                errors.append(error)
                return 0
            return len(data)

        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(write))
        except RuntimeError:
            if not errors:
                raise
        if errors:
            raise errors[0]


class Vectors:
    """Vectors (N, P) of a segment that were written by `write_vectors`; safe to search from several threads."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ClipBertError: the file is damaged.
        """
        faiss = _faiss()
        try:
            self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ClipBertError(f"{path}: damaged: faiss cannot read it.") from error
        self.count, self.dimension = int(self._index.ntotal), int(self._index.d)
        self.inverted = isinstance(self._index, faiss.IndexIVF)
        if self.inverted:
            self._index.parallel_mode = 1  # over the lists of one query
            share = PROBED * min(1.0, (FULL_SHARE_TO / self.count) ** 0.5)
            self._probes = max(16, int(share * self._index.nlist))

    def __len__(self) -> int:
        return self.count

    def search(
        self, query: NDArray[np.float32], count: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the best scores and their rows, best first.

        Args:
            query: (P,) unit vector.
            count: rows wanted; fewer are returned where there are no more.
            allowed: (N,) which rows count; None: all. An inverted file reads more lists where few do.
        """
        faiss = _faiss()
        count = min(count, self.count)
        selector, share = None, 1.0
        if allowed is not None:
            share = float(allowed.mean()) if len(allowed) else 0.0
            if share == 0.0:
                return np.empty(0, np.float32), np.empty(0, np.int64)
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self.inverted:
            probes = min(self._index.nlist, math.ceil(self._probes / share))
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        else:
            parameters = faiss.SearchParameters(sel=selector) if selector is not None else None
        scores, rows = self._index.search(query[None].astype(np.float32), count, params=parameters)
        found = rows[0] >= 0
        return scores[0][found], rows[0][found].astype(np.int64)

    def blocks(self) -> Iterator[NDArray[np.float16]]:
        """Yield all vectors in the order of their rows, block by block."""
        if self.inverted:  # its rows are in the order of its lists
            yield self._index.reconstruct_n(0, self.count).astype(np.float16)
            return
        for start in range(0, self.count, ADDED_AT_ONCE):
            yield self._index.reconstruct_n(start, min(ADDED_AT_ONCE, self.count - start)).astype(np.float16)
