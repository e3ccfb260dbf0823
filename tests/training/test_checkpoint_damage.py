"""A changed byte or a cut anywhere in the newest checkpoint: named, and the one before it is used."""

import random
import shutil
from pathlib import Path

import pytest
from test_checkpoint import written

from clipbert.training.checkpoint import Checkpoints


def test_every_flip_and_cut_leads_to_the_checkpoint_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "whole", 6, 7)
    files = sorted(path.name for path in (tmp_path / "whole" / "step-00000007").iterdir())
    draw, unnoticed = random.Random(0), []
    for trial in range(110):
        folder = tmp_path / f"trial-{trial}"
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / "step-00000007" / draw.choice(files)
        data = bytearray(path.read_bytes())
        offset = draw.randrange(len(data))
        if trial < 100:
            data[offset] ^= 1 << draw.randrange(8)
        path.write_bytes(data if trial < 100 else data[:offset])
        found = Checkpoints(folder, {}).newest()
        said = capsys.readouterr().err
        if found != 6 or "step-00000007 cannot be used (" not in said:
            unnoticed.append((trial, path.name, offset, found, said))
        shutil.rmtree(folder)
    assert unnoticed == []
