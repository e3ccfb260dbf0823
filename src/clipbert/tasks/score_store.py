"""Scores of an unfinished evaluation on the disk, so that a killed one continues where it stopped."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clipbert.console import console
from clipbert.files.atomic import atomic_write, write_json

IDENTITY, SUFFIX = "evaluation.json", ".safetensors"


class ScoreStore:
    """Blocks of scores of one evaluation: a file per block, with its checksum and the digest of the evaluation.

    What another evaluation left in the folder is removed, and so are damaged blocks. A block counts only if it names
    the digest of this evaluation: that of everything that decides its scores.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """
        Args:
            folder: of this evaluation alone.
            identity: everything that decides the scores and the blocks, as JSON values.
        """
        text = json.dumps(identity, sort_keys=True)
        self.folder, self.digest = folder, hashlib.sha256(text.encode()).hexdigest()
        known = folder / IDENTITY
        try:
            found = json.loads(known.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found != json.loads(text):
            self.clear()
            write_json(known, identity)
        self._finished: set[int] = set()
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            if (index := self._check(path)) is not None:
                self._finished.add(index)

    def finished(self) -> list[int]:
        """Return the numbers of the finished blocks, ascending."""
        return sorted(self._finished)

    def read(self, index: int) -> dict[str, NDArray[Any]]:
        """Return the arrays of a finished block."""
        with safe_open(self._path(index), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def write(self, index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a block atomically.

        Raises:
            ClipBertError: the disk is full or the folder cannot be written.
        """
        own = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        content = save(own, metadata={"evaluation": self.digest, "sha256": _checksum(own)})
        with atomic_write(self._path(index)) as file:
            file.write(content)
        self._finished.add(index)

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._finished = set()

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}{SUFFIX}"

    def _check(self, path: Path) -> int | None:
        """Return the number of a block that is intact and of this evaluation; another one is removed."""
        try:
            index = int(path.stem)
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("evaluation") == self.digest and metadata.get("sha256") == _checksum(arrays):
                return index
            problem = "its content does not match its checksum"
        except (SafetensorError, OSError, ValueError) as error:
            problem = str(error).splitlines()[0]
        console.print(f"{path}: damaged ({problem}); its texts are scored again.")
        path.unlink(missing_ok=True)
        return None


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
