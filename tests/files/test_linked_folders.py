"""Project folders that are links to another disk: supported ones, and ones that are rejected before any work."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipbert.cli.importing import import_group
from clipbert.config.data import IngestParams
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_videos
from clipbert.errors import ClipBertError
from clipbert.files.linked_folders import check_artifacts, dvc_caches, writable_data


@pytest.mark.slow
def test_an_import_writes_through_a_linked_data_folder(
    tmp_path: Path, tiny_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, disk = tmp_path / "project", tmp_path / "disk"
    project.mkdir()
    (disk / "data").mkdir(parents=True)
    (project / "data").symlink_to(disk / "data")
    monkeypatch.chdir(project)
    tiny_video(project / "clips" / "a.mp4")
    (project / "t.csv").write_text("media,text,split\na.mp4,a bar,train\n")
    done = CliRunner().invoke(import_group, ["table", "t.csv", "clips"])
    assert done.exit_code == 0, done.output
    assert "DVC cannot version it" in done.output
    assert (project / "data").is_symlink()
    assert sorted(path.name for path in (disk / "data").iterdir()) == ["captions.jsonl", "videos"]
    assert [path.name for path in disk.iterdir()] == ["data"]
    ingest(project / "data", project / "artifacts" / "manifest", IngestParams())
    assert len(read_videos(project / "artifacts" / "manifest")) == 1


def test_a_link_to_the_top_of_a_disk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/dev/shm")
    if not Path("/dev/shm").is_mount():
        pytest.skip("no second file system")
    with pytest.raises(ClipBertError, match=r"the mount point of a disk.* Link a folder on that disk"):
        writable_data(tmp_path / "data")


def test_linked_outputs_are_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    (tmp_path / "disk").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "disk")
    check_artifacts(tmp_path)  # without DVC it works
    monkeypatch.setenv("DVC_STAGE", "ingest")
    with pytest.raises(ClipBertError, match=r"artifacts: is a symbolic link, and DVC does not track outputs"):
        check_artifacts(tmp_path)
    monkeypatch.delenv("DVC_STAGE")
    (tmp_path / "disk" / "frames").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClipBertError, match=r"frames: is a symbolic link; stages replace this folder as a whole"):
        check_artifacts(tmp_path)


@pytest.mark.slow
def test_linked_media_folders_are_refused_before_the_probing(tmp_path: Path, tiny_data: Callable[..., Path]) -> None:
    data = tiny_data(tmp_path / "data")
    shutil.move(data / "videos", tmp_path / "disk")
    (data / "videos").symlink_to(tmp_path / "disk")
    with pytest.raises(ClipBertError, match=r"data/videos: is a symbolic link to a place outside .*bind-mount it"):
        ingest(data, tmp_path / "manifest", IngestParams())
    assert not (tmp_path / "manifest").exists()


@pytest.mark.slow
def test_files_that_dvc_links_to_its_cache_are_media(tmp_path: Path, tiny_data: Callable[..., Path]) -> None:
    data = tiny_data(tmp_path / "project" / "data")
    cache = tmp_path / "disk" / "cache"
    cache.mkdir(parents=True)
    for path in (data / "videos").iterdir():
        shutil.move(path, cache / path.name)
        path.symlink_to(cache / path.name)
    with pytest.raises(ClipBertError, match="none of its 4 media files can be used"):
        ingest(data, tmp_path / "manifest", IngestParams())
    (tmp_path / "project" / ".dvc").mkdir()
    (tmp_path / "project" / ".dvc" / "config.local").write_text("[cache]\n    dir = ../../disk/cache\n")
    assert cache in dvc_caches(tmp_path / "project")
    ingest(data, tmp_path / "manifest", IngestParams())
    assert len(read_videos(tmp_path / "manifest")) == 4
