import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.api_password import FILE, ApiPasswordError, api_password


@pytest.mark.slow
def test_a_password_is_made_once_for_its_owner_alone_and_stays_out_of_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    password = api_password(tmp_path)
    assert len(password) >= 43
    assert api_password(tmp_path) == password
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert subprocess.check_output(["git", "status", "--short", "-uall"], cwd=tmp_path) == b""
    assert sorted(path.name for path in (tmp_path / FILE).parent.iterdir()) == [".gitignore", "api_password"]


def test_each_project_has_its_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert api_password(tmp_path / "a") != api_password(tmp_path / "b")


def test_several_processes_that_make_one_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: api_password(tmp_path), range(64)))) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    api_password(tmp_path)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(ApiPasswordError, match=rf"mode 0{mode:o} lets others .* Expected 0600. Remove the file"):
        api_password(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "short", "a" * 20 + " " + "b" * 30, "a:" * 30, "é" * 40, "a" * 40 + "\n" + "b" * 40]
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    api_password(tmp_path)
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ApiPasswordError, match=r"api_password: expected one line of at least 32 ASCII characters"):
        api_password(tmp_path)
