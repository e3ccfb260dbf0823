import sqlite3
from pathlib import Path

import pytest
from forked_python import run_program

from clipbert.cli import doctor
from clipbert.release.outbox import Outbox, outbox_folder

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def problems(findings: list[doctor.Finding]) -> list[str]:
    return [finding.problem for finding in findings if finding.problem is not None]


@pytest.mark.slow
def test_the_environment_of_the_tests_is_well(tmp_path: Path) -> None:
    for check in (doctor.check_python, doctor.check_packages, doctor.check_device, doctor.check_programs):
        assert problems(list(check(tmp_path))) == []


@pytest.mark.slow
def test_decord_reads_what_pyav_wrote(tmp_path: Path) -> None:
    found = {finding.what: finding for finding in doctor.check_decoders(tmp_path)}
    assert found["decord"] == doctor.Finding("decord", "decodes")
    assert "libavcodec" in found["PyAV"].found


def test_a_package_of_another_version_is_named_with_the_one_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["numpy==1.0", "absent-package", "av>=1"])
    wrong = problems(list(doctor.check_packages(Path())))
    assert wrong[0].endswith("is installed, ==1.0 is needed: make install")
    assert wrong[1:] == ["missing: make install"]


def test_packages_of_the_pipeline_are_checked_and_those_of_developers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ['absent-store; extra == "pipeline"', 'absent-linter; extra == "dev"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: declared)
    assert [finding.what for finding in doctor.check_packages(Path())] == ["absent-store"]


@pytest.mark.slow
def test_an_empty_folder_lacks_repository_parameters_and_data(tmp_path: Path) -> None:
    wrong = problems(list(doctor.check_project(tmp_path)))
    assert wrong[0].endswith("is not in a git repository: git init, and commit")
    assert "params.yaml: no such parameter file" in wrong[1]
    assert wrong[2].startswith("there is no data/")


@pytest.mark.slow
def test_a_wrong_parameter_is_shown_as_the_verbs_show_it(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {lrr: 0.1}\n")
    assert any("train.lrr: unknown parameter; did you mean train.lr?" in text for text in problems(
        list(doctor.check_project(tmp_path))
    ))  # fmt: skip


@pytest.mark.slow
def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    assert any(
        "at least 1e+09 GB needed: free some space" in text for text in problems(list(doctor.check_project(tmp_path)))
    )


def test_the_embedded_store_is_absent_then_read_then_broken(tmp_path: Path) -> None:
    store = tmp_path / "mlflow" / "mlflow.db"
    store.parent.mkdir()
    assert list(doctor.check_mlflow(tmp_path)) == [
        doctor.Finding("MLflow", f"store {store}, created by the first training")
    ]
    with sqlite3.connect(store) as database:
        database.execute("CREATE TABLE runs (id)")
        database.execute("INSERT INTO runs VALUES (1)")
    assert list(doctor.check_mlflow(tmp_path)) == [doctor.Finding("MLflow", f"store {store}, 1 run(s)")]
    store.write_bytes(b"no database" * 100)
    assert "cannot be read (file is not a database): move it away" in problems(list(doctor.check_mlflow(tmp_path)))[0]


def test_metrics_that_are_not_in_mlflow_yet_are_named(tmp_path: Path) -> None:
    assert list(doctor.check_outbox(tmp_path)) == [doctor.Finding("MLflow outbox", "empty")]
    outbox = Outbox(outbox_folder(tmp_path, "a1b2"))
    outbox.write_run({"run_id": "a1b2", "run_name": "night", "task": "retrieval", "tracking_uri": "http://there"})
    outbox.append("metrics", {"step": 1, "values": {"train/loss": 1.0, "train/lr": 0.1}})
    assert problems(list(doctor.check_outbox(tmp_path))) == []  # its training delivers it
    outbox.close()
    assert problems(list(doctor.check_outbox(tmp_path))) == [
        "not in MLflow yet: 2 values of night; clipbert track sync, when its store answers"
    ]


def test_servers_that_do_not_answer_are_named_without_their_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    (mlflow,) = doctor.check_mlflow(tmp_path)
    assert mlflow.problem is not None
    assert mlflow.problem.startswith("http://127.0.0.1:9 does not answer ([Errno 111] Connection refused): start it")
    assert "secret" not in str(mlflow)
    (prefect,) = doctor.check_prefect(tmp_path)
    assert prefect.problem is not None
    assert "correct or unset PREFECT_API_URL" in prefect.problem


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_is_no_project_is_the_one_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], inside: bool
) -> None:
    quick = tuple(check for check in doctor.MACHINE_CHECKS if check is not doctor.check_decoders)
    monkeypatch.setattr(doctor, "MACHINE_CHECKS", quick)
    folder = tmp_path / "videos"
    folder.mkdir()
    if inside:
        (tmp_path / "params.yaml").write_text("seed: 0\n")
    (found,) = doctor.doctor(folder)
    assert found.startswith(f"project: {folder} is not a ClipBERT project (no params.yaml, no dvc.yaml): ")
    assert (f"cd {tmp_path}, and run" if inside else "cd to your clone") in found
    assert "1 problem(s)." in capsys.readouterr().out
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_the_verb_prints_the_table_and_what_is_wrong_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    done = run_program("-m", "clipbert", "doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "torch" in done.stdout
    assert "- repository: " in done.stdout
    assert "problem(s)." in done.stdout
    assert done.stderr == ""
