"""Prediction of blocks on a Dask cluster: each worker process loads the model once."""

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file
from clipbert.files.checksums import CHECKSUMS
from clipbert.frame_cache.cluster import open_cluster
from clipbert.inference.pipelines import pipeline
from clipbert.prediction.block import Block, BlockPredictor, Result

_lock = threading.Lock()


def predict_there(block: Block, folder: str, task: str, media: str, digest: str) -> list[Result]:
    """Predict a block on a Dask worker.

    Raises:
        ClipBertError: the worker does not see the model folder, or sees another model in it.
    """
    sums = Path(folder) / CHECKSUMS
    if not sums.is_file() or sha256_file(sums) != digest:
        raise ClipBertError(
            f"dask worker: {folder} is not the model folder of the machine that predicts. Mount it and the videos "
            "under the same paths on each worker."
        )
    with _lock:  # a dask worker runs its tasks in threads, and the predictions of one use all cores
        ((_, results),) = _load(folder, task, media, digest).predict([block])
    return results


@functools.lru_cache(maxsize=1)
def _load(folder: str, task: str, media: str, digest: str) -> BlockPredictor:
    """Return the predictor of a worker, which stays for its next blocks; `digest` tells a changed model."""
    return BlockPredictor(pipeline(task, folder), Path(media))


class DaskPredictor:
    """Predictor on the workers of a Dask scheduler, which gives the blocks of a worker that dies to others.

    Args:
        address: dask://HOST:PORT.
        folder, media: of the model and of the videos, under these paths on every worker.

    Raises:
        ClipBertError: a wrong address, a scheduler that does not answer, or a model folder without checksums.
    """

    def __init__(self, address: str, folder: Path, task: str, media: Path) -> None:
        if not address.startswith("dask://"):
            raise ClipBertError(f"--executor {address}: expected local or dask://HOST:PORT.")
        sums = folder / CHECKSUMS
        if not sums.is_file():
            raise ClipBertError(f"{sums}: not found: workers check the model by it. Run: clipbert checksum {folder}")
        self._arguments = (str(folder), task, str(media), sha256_file(sums))
        self._opened = contextlib.ExitStack()
        params = FramesParams(executor=address)
        self._dask = self._opened.enter_context(open_cluster(params, command="clipbert predict"))

    def close(self) -> None:
        """Disconnect."""
        self._opened.close()

    def predict(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, list[Result]]]:
        """Yield each block with the results of its rows.

        Raises:
            ClipBertError: the scheduler is lost, its workers die, or a worker cannot predict.
        """
        return self._dask.map(predict_there, blocks, lambda block: str(block.rows[0].get("video")), *self._arguments)
