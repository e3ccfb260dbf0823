from pathlib import Path

import pytest
import yaml

from flows.stage import StageError, run_stage
from flows.supervisor import Supervisor

pytestmark = pytest.mark.slow


def test_a_stage_runs_is_then_unchanged_and_comes_back_from_the_cache(project: Path) -> None:
    said: list[str] = []
    with Supervisor(project) as supervisor:
        first = run_stage("prepare", supervisor, said.append)
        assert first.outcome == "ran"
        assert "prepare reads data/numbers.txt" in said
        assert not [line for line in said if "git add" in line or not line]
        assert run_stage("prepare", supervisor, said.append).outcome == "unchanged"
        (project / "artifacts/prepared.txt").unlink()
        assert run_stage("prepare", supervisor, said.append).outcome == "restored"
    assert (project / "artifacts/prepared.txt").read_text() == "1 2 3\n"


def test_changed_data_is_taken_up_by_its_own_stage(project: Path) -> None:
    before = (project / "data.dvc").read_text()
    (project / "data/numbers.txt").write_text("4\n")
    with Supervisor(project) as supervisor:
        assert run_stage("data.dvc", supervisor, print).outcome == "ran"
        assert (project / "data.dvc").read_text() != before
        assert run_stage("data.dvc", supervisor, print).outcome == "unchanged"


@pytest.mark.parametrize(("code", "retryable"), [(2, False), (1, True), (137, True)])
def test_a_failure_says_what_the_stage_said_and_whether_another_try_may_help(
    project: Path, code: int, retryable: bool
) -> None:
    (project / "orders/prepare").write_text(f"exit {code}")
    with Supervisor(project) as supervisor, pytest.raises(StageError) as caught:
        run_stage("prepare", supervisor, print)
    assert str(caught.value).startswith(f"prepare: exit code {code}\n")
    assert str(caught.value).endswith("the color is wrong; expected red, blue or green")
    assert caught.value.retryable is retryable


def test_what_dvc_cannot_run_is_not_tried_again(project: Path) -> None:
    with (
        Supervisor(project) as supervisor,
        pytest.raises(StageError, match=r"(?s)DVC could not run it.*prepared") as no,
    ):
        run_stage("train@left", supervisor, print)
    assert not no.value.retryable


def test_a_stage_ends_at_its_time_limit(project: Path) -> None:
    (project / "orders/prepare").write_text("wait")
    with (
        Supervisor(project) as supervisor,
        pytest.raises(StageError, match=r"prepare: stopped at its time limit of 3 s") as late,
    ):
        run_stage("prepare", supervisor, print, time_limit_s=3)
    assert not late.value.retryable  # the stage alone would take 1000 s, more than the limit of a test


@pytest.mark.parametrize("code", [0, 2])
def test_a_secret_that_a_stage_prints_is_in_no_log_and_in_no_error(project: Path, code: int) -> None:
    graph = yaml.safe_load((project / "dvc.yaml").read_text())
    stage, secret = graph["stages"]["prepare"], "pl4nted-in-a-stage"
    (project / "leak.sh").write_text(f"echo connecting to postgresql://host/db?password={secret}\nexit {code}\n")
    stage["cmd"] = [stage["cmd"], "sh leak.sh"]
    (project / "dvc.yaml").write_text(yaml.safe_dump(graph))
    said: list[str] = []
    with Supervisor(project) as supervisor:
        try:
            run_stage("prepare", supervisor, said.append)
        except StageError as error:
            said.append(str(error))
    assert [line for line in said if secret in line] == []
    assert "connecting to postgresql://host/db?password=***" in "\n".join(said)
