"""JSON files with a digest: every changed character is detected; older files without a digest are read."""

import json
from pathlib import Path

import pytest
from byte_flips import unnoticed_flips, unnoticed_truncations

from clipbert.errors import ClipBertError
from clipbert.files.signed_json import DIGEST, read_signed_json, write_signed_json

VALUES = {"task": "retrieval", "run_id": "4f" * 16, "params": {"lr": 0.0015, "sizes": (1, 2)}, "seconds": 12.5}
REMEDY = "Train again."


def test_what_was_written_comes_back_without_its_digest(tmp_path: Path) -> None:
    write_signed_json(tmp_path / "run.json", VALUES)
    assert read_signed_json(tmp_path / "run.json", REMEDY) == VALUES | {"params": {"lr": 0.0015, "sizes": [1, 2]}}


def test_flips_and_truncations_are_noticed_or_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_signed_json(path, VALUES)
    whole, right = path.read_bytes(), read_signed_json(path, REMEDY)

    def read() -> None:
        if read_signed_json(path, REMEDY) == right:
            raise ClipBertError(f"{path.name}: the same values")

    assert unnoticed_flips(path, read, 400) == []
    assert unnoticed_truncations(path, read) == []
    assert path.read_bytes() == whole


def test_a_flipped_digit_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_signed_json(path, VALUES)
    path.write_text(path.read_text().replace('"4f4f', '"4f4e'))
    with pytest.raises(ClipBertError, match=rf"run\.json: damaged or edited: .*{DIGEST}.* Train again\."):
        read_signed_json(path, REMEDY)


def test_a_file_without_a_digest_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"task": "retrieval"}))
    assert read_signed_json(tmp_path / "run.json", REMEDY) == {"task": "retrieval"}
