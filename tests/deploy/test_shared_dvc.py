"""The DVC remote and media on the object store of deploy/compose.yaml, behind TLS."""

import shutil
import subprocess
from pathlib import Path

import pytest
from shared_installation import PROGRAMS, SECRETS, SharedInstallation, clean_environment


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git and DVC project with a folder of data."""
    root = tmp_path / "project"
    (root / "data" / "videos").mkdir(parents=True)
    for number in range(5):
        (root / "data" / "videos" / f"{number}.mp4").write_bytes(bytes([number]) * 200_000)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


def dvc(installation: SharedInstallation, root: Path, *arguments: str, **changed: str) -> str:
    environment = clean_environment() | installation.client() | changed
    command = [PROGRAMS / "dvc", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def test_data_is_pushed_and_pulled(installation: SharedInstallation, project: Path) -> None:
    def run(*arguments: str) -> None:
        answer = dvc(installation, project, *arguments)
        assert answer.startswith("0\n"), answer

    run("init", "--quiet")
    run("add", "--quiet", "data")
    run("remote", "add", "--default", "shared", "s3://project/dvc")
    run("remote", "modify", "shared", "endpointurl", installation.s3)
    denied = dvc(installation, project, "push", AWS_SECRET_ACCESS_KEY="wrong")
    assert not denied.startswith("0\n")
    assert "SignatureDoesNotMatch" in denied or "Forbidden" in denied or "Permission" in denied, denied
    run("push")
    before = {path.name: path.read_bytes() for path in (project / "data" / "videos").iterdir()}
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc" / "cache")
    run("pull")
    assert {path.name: path.read_bytes() for path in (project / "data" / "videos").iterdir()} == before
    assert len([name for name in installation.objects("project") if name.startswith("dvc/")]) == 6
    # The credentials are in the environment only.
    kept = [path.read_bytes() for path in project.rglob("*") if path.is_file()]
    assert not [content for content in kept if SECRETS["PROJECT_S3_SECRET"].encode() in content]
