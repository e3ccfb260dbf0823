from pathlib import Path

import pytest
from prefect_server import Prefect

from flows.parameters import ParameterError, check_task_name, project_folder


def test_the_projects_folder_may_be_spelled_in_several_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for root in (".", "./", str(tmp_path), f"{tmp_path}/a/.."):
        assert project_folder(root) == tmp_path.resolve()
    monkeypatch.setenv("CLIPBERT_ROOT", str(tmp_path))
    assert project_folder(".") == tmp_path.resolve()


@pytest.mark.parametrize("root", ["..", "/", "/etc", "elsewhere", "link", "~", "a\0b", "--params=x", ""])
def test_another_folder_is_refused(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = tmp_path / "project"
    (allowed / "elsewhere").mkdir(parents=True)
    (allowed / "link").symlink_to("/")
    monkeypatch.setenv("CLIPBERT_ROOT", str(allowed))
    monkeypatch.chdir(allowed if root else tmp_path)
    with pytest.raises(ParameterError, match=r"^root: .* is not the project.s folder\. Expected"):
        project_folder(root)


@pytest.mark.parametrize("task", ["--params=x", "../x", "retrieval; touch x", "", "Retrieval", "retrieval\n", "-h"])
def test_what_is_no_task_is_refused_with_the_tasks_there_are(task: str) -> None:
    with pytest.raises(ParameterError, match=r"(?s)^task: .*expected one of retrieval, open_qa"):
        check_task_name(task)
    assert check_task_name("retrieval") == "retrieval"


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("deployment", "parameters", "message"),
    [
        ("clipbert-pipeline/daily", {"root": "/tmp"}, "root: '/tmp' is not the project's folder"),
        ("clipbert-pipeline/daily", {"stages": ["ingest; touch x"]}, "ingest; touch x: dvc.yaml has no such stage"),
        ("clipbert-promote/promote", {"task": "--params=x", "approve": True}, "task: --params=x: no such task"),
        ("clipbert-rollback/rollback", {"task": "../x"}, "task: ../x: no such task"),
    ],
)
def test_a_run_with_such_a_parameter_fails_and_does_nothing(
    prefect: Prefect, project: Path, deployment: str, parameters: dict[str, object], message: str
) -> None:
    run = prefect.start(deployment, project, **parameters)
    end = prefect.wait(run)
    assert end["type"] == "FAILED"
    assert end["message"].startswith(message)
    assert not (project / "artifacts").exists()
