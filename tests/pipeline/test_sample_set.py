"""The sample set that a fresh clone makes is the one whose hash is committed."""

from pathlib import Path

import pytest
import yaml
from dvc_project import PROJECT, make_project, run

from clipbert.data.synthetic.sample_set import make_sample_data

pytestmark = pytest.mark.pipeline


def test_the_whole_set_has_the_hash_of_data_dvc(tmp_path: Path) -> None:
    committed = yaml.safe_load((PROJECT / "data.dvc").read_text())["outs"][0]
    root = make_project(tmp_path / "project")
    make_sample_data(root / "data")
    run("dvc", "add", "--no-commit", "data", cwd=root)
    made = yaml.safe_load((root / "data.dvc").read_text())["outs"][0]
    assert {key: made[key] for key in ("md5", "nfiles", "size")} == {
        key: committed[key] for key in ("md5", "nfiles", "size")
    }
