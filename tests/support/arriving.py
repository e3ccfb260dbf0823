"""A small project with an inbox, and one pass over it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipbert.config.data import InboxParams, IngestParams, ValidateParams
from clipbert.data.inbox.checks import Gate
from clipbert.data.inbox.run import InboxResult, Places, collect

INGEST = IngestParams(num_workers=1, max_quarantined_fraction=0.9)


class ArrivingData:
    """Project at `root` whose inbox is the folder `inbox`."""

    def __init__(self, root: Path, **limits: Any) -> None:
        self.root, self.data, self.inbox = root, root / "data", root / "inbox"
        self.limits = ValidateParams.model_validate(limits)
        self.params = InboxParams(stable_s=0.0)
        self.inbox.mkdir(parents=True, exist_ok=True)

    @property
    def places(self) -> Places:
        return Places(self.root, self.root / "artifacts", self.data, self.root / "refused")

    def row(self, name: str = "captions.jsonl", **values: Any) -> None:
        """Append a caption about `videos/new.mp4` to an annotation file of the inbox."""
        row = {"id": "new", "media": "videos/new.mp4", "text": "something new", **values}
        with (self.inbox / name).open("a") as file:
            file.write(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n")

    def video(self, make: Callable[..., Path], name: str = "videos/new.mp4", **values: Any) -> Path:
        """Write a video into the inbox, by default one unlike the tiny ones."""
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path, **({"seed": 77, "frames": 40} | values))
        return path

    def collect(self, recheck: bool = False, **changes: Any) -> InboxResult:
        """Make one pass over the inbox."""
        params = self.params.model_copy(update=changes)
        gate = Gate(self.limits, self.root / "artifacts/validation/baseline")
        return collect(self.places, params, INGEST, lambda: gate, recheck=recheck)

    def captions(self) -> list[dict[str, Any]]:
        """Return the captions of data/."""
        return [json.loads(line) for line in (self.data / "captions.jsonl").read_text().splitlines()]

    def left(self) -> list[str]:
        """Return the files in the inbox."""
        return sorted(path.relative_to(self.inbox).as_posix() for path in self.inbox.rglob("*") if path.is_file())

    def reasons(self) -> list[dict[str, Any]]:
        """Return the reasons of the only refused batch."""
        (folder,) = (self.root / "refused").iterdir()
        reasons: list[dict[str, Any]] = json.loads((folder / "reasons.json").read_text())
        return reasons

    def refused(self) -> list[str]:
        """Return the files of the only refused batch."""
        (folder,) = (self.root / "refused").iterdir()
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def make_older(path: Path, seconds: float) -> None:
    """Set the time of modification of a file back; the kernel sets that of the change."""
    then = time.time() - seconds
    os.utime(path, (then, then))
