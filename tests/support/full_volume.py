"""Program for tests/release/test_full_volume.py: registers and promotes while the volume of mlflow/ is full, and after.

    python full_volume.py PROJECT DATABASE

PROJECT/mlflow is a small volume. Prints one JSON object.
"""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agreement import assert_agreement
from policies import task_policy
from small_releases import releaser, save_model, scored_items

from clipbert.errors import ClipBertError
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.history import history
from clipbert.release.promotion import promote


def fill(volume: Path) -> Path:
    """Write a file that takes every byte that is left of a volume."""
    filler = volume / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return filler


def message_of(command: Callable[[], Any]) -> str:
    """Return the message with which a command fails."""
    try:
        command()
    except ClipBertError as error:
        return str(error)
    return "no error"


def main(root: Path, database: Path) -> dict[str, Any]:
    """Return what happened."""
    volume = root / "mlflow"
    (volume / "mlflow.db").write_bytes(database.read_bytes())
    models = [save_model(root / f"models-{seed}" / "retrieval", "retrieval", seed) for seed in (0, 1)]
    register = releaser(root, lambda task, seed: models[seed])
    policy = task_policy()

    def places() -> dict[str, str]:
        return aliases(open_store(root), "clipbert-retrieval")

    register(0, scored_items(30))
    promote(root, "retrieval", policy)
    found: dict[str, Any] = {"before": places()}

    filler = fill(volume)
    found["register"] = message_of(lambda: register(1, scored_items(48)))
    filler.unlink()
    found["after the registration"] = places()
    register(1, scored_items(48))
    found["registered"] = places()

    filler = fill(volume)
    found["promote"] = message_of(lambda: promote(root, "retrieval", policy))
    found["after the promotion"] = places()
    filler.unlink()
    history(root)
    promote(root, "retrieval", policy)
    assert_agreement(root)
    found["promoted"] = places()
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
