"""Training and validation curves of a finished training, as CSV files with checksums."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory
from clipbert.files.checksums import CHECKSUMS, DamagedError, check_files, write_checksums

TRAINING, VALIDATION = "train.csv", "val.csv"
COLUMNS = ("step", "epoch", "loss")  # of a training without steps
Rows = Sequence[Mapping[str, Any]]


def write_history(folder: Path, training: Rows, validation: Rows) -> None:
    """Write the rows that were logged during training and those of each validation, replacing `folder`."""
    with atomic_directory(folder) as new:
        pd.DataFrame(training, columns=None if training else COLUMNS).to_csv(new / TRAINING, index=False)
        pd.DataFrame(validation).to_csv(new / VALIDATION, index=False)
        write_checksums(new, new.glob("*.csv"))


def read_history(folder: Path, task: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training and the validation rows; files of older versions have no checksums and are not checked.

    Raises:
        ClipBertError: a file is damaged or missing.
    """
    if (folder / CHECKSUMS).is_file():
        try:
            check_files(folder)
        except DamagedError as error:
            raise ClipBertError(
                f"{error}. Restore it: dvc checkout {folder}, or train again: clipbert train {task}"
            ) from error
    return pd.read_csv(folder / TRAINING), pd.read_csv(folder / VALIDATION)
