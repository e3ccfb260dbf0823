"""MLflow with accounts on PostgreSQL and S3, as deploy/compose.yaml runs it, behind TLS."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from botocore.exceptions import ClientError
from policies import write_policy
from shared_installation import ADMIN, SECRETS, SharedInstallation, clean_environment
from small_releases import releaser, save_model, scored_items

from clipbert.errors import ClipBertError
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.ownership import IDENTITY
from clipbert.release.registry import Release, download_model, model_digest

pytestmark = pytest.mark.timeout(900)  # the first test starts five servers and registers a model

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "clipbert-retrieval"
TRAINER = ("trainer", "planted-trainer-password")
READER = ("reader", "planted-reader-password")


@pytest.fixture(scope="module")
def accounts(installation: SharedInstallation) -> None:
    """Two accounts, which the administrator makes."""
    for user, password in (TRAINER, READER):
        answer = requests.post(
            f"{installation.mlflow}/api/2.0/mlflow/users/create",
            json={"username": user, "password": password},
            auth=("admin", ADMIN),
            verify=str(installation.root_certificate),
            timeout=60,
        )
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "mlflow").mkdir()
    (root / IDENTITY).write_text(json.dumps({"id": "2" * 32, "made": "shared by me@host on 2026-11-28"}))
    shutil.copy(REPOSITORY / "params.yaml", root)
    write_policy(root)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "retrieval", "retrieval", 0)


@pytest.fixture(scope="module")
def candidate(installation: SharedInstallation, accounts: None, project: Path, model: Path) -> Release:
    """A version that the account `trainer` registered."""
    with pytest.MonkeyPatch.context() as patch:
        use(installation, TRAINER, patch)
        return releaser(project, lambda task, seed: model)(0, scored_items(50))


@pytest.fixture(scope="module")
def refused(installation: SharedInstallation, candidate: Release, project: Path) -> "subprocess.CompletedProcess[str]":
    """What the account `reader` is answered when it promotes that version; afterwards, `trainer` promotes it."""
    answer = clipbert(installation, project, READER, "promote", "retrieval")
    assert aliases_of(installation, project) == {"candidate": candidate.version}
    done = clipbert(installation, project, TRAINER, "promote", "retrieval")
    assert done.returncode == 0, done.stderr
    return answer


def clipbert(
    installation: SharedInstallation, project: Path, account: tuple[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the project with an account of the server."""
    command = [sys.executable, "-m", "clipbert", *arguments]
    environment = clean_environment() | installation.client(*account)
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=240)


def use(installation: SharedInstallation, account: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in installation.client(*account).items():
        monkeypatch.setenv(name, value)


def aliases_of(installation: SharedInstallation, project: Path) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        use(installation, READER, patch)
        return aliases(open_store(project), NAME)


def test_a_reader_cannot_promote_and_is_told_so(
    refused: "subprocess.CompletedProcess[str]", candidate: Release
) -> None:
    assert refused.returncode == 2
    assert f"the promotion of version {candidate.version} failed; nothing was changed" in refused.stderr
    assert "the account reader (MLFLOW_TRACKING_USERNAME) has no permission for this." in refused.stderr
    assert "ask an administrator of the server for the permission" in refused.stderr
    assert "Traceback" not in refused.stderr + refused.stdout


def test_a_promoted_version_loads_with_its_digest(
    installation: SharedInstallation,
    candidate: Release,
    refused: object,
    project: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    use(installation, READER, monkeypatch)
    store = open_store(project)
    version = store.client.get_model_version_by_alias(NAME, "champion")
    assert (version.version, version.tags["digest"]) == (candidate.version, candidate.digest)
    folder = download_model(store, NAME, candidate.version, tmp_path)
    assert model_digest(folder) == model_digest(model) == candidate.digest


def test_rows_are_in_postgresql_and_files_in_the_object_store(
    installation: SharedInstallation, candidate: Release, refused: object
) -> None:
    query = f"select alias, version from registered_model_aliases where name = '{NAME}'"
    assert f"champion|{candidate.version}" in installation.postgres.query(query, "mlflow").splitlines()
    names = [name for name in installation.objects("mlflow") if name.endswith("model.safetensors")]
    assert names
    with pytest.raises(ClientError, match="AccessDenied"):
        installation.objects("mlflow", account="project")


def test_a_wrong_password_is_named_as_the_cause(
    installation: SharedInstallation, candidate: Release, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(installation, ("trainer", "not-the-password"), monkeypatch)
    with pytest.raises(ClipBertError, match=r"the account trainer \(MLFLOW_TRACKING_USERNAME\) is unknown") as caught:
        open_store(project)
    assert "not-the-password" not in str(caught.value)


def test_no_password_is_in_a_log_a_row_or_an_object(
    installation: SharedInstallation, refused: object, project: Path
) -> None:
    secrets = [*SECRETS.values(), TRAINER[1], READER[1]]
    written = {name: text.encode() for name, text in installation.logs().items()}
    written["databases"] = installation.postgres.dump()
    for bucket in ("mlflow", "project"):
        written |= {f"{bucket}/{name}": installation.read_object(bucket, name) for name in installation.objects(bucket)}
    written |= {str(path): path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert len(written) > 20
    assert [
        (name, secret) for name, content in written.items() for secret in secrets if secret.encode() in content
    ] == []
