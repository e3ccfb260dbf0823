"""Code and parameters of a training, stored in its MLflow run: the commit, the patch of a dirty tree, params.yaml."""

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from clipbert.errors import ClipBertError
from clipbert.redact import redact
from clipbert.release.provenance import NONE, device_name
from clipbert.release.source_tree import SourceTree, source_tree
from clipbert.release.store import Store

FOLDER = "source"  # of a run's artifacts
SOURCE_TAG = "clipbert.source"  # the SHA-256 of source.json
PATCH, PARAMS, DESCRIPTION = "changes.patch", "params.yaml", "source.json"
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "decord", "av", "pillow")


@dataclass(frozen=True)
class Source:
    """What `source.json` says.

    Attributes:
        commit, tree: as in `SourceTree`; "none" without git.
        patch: SHA-256 of changes.patch; "none" for a clean tree.
        params: SHA-256 of the project's params.yaml; "none" if there is none.
        params_redacted: the stored params.yaml has *** in the place of a secret.
        omitted: as in `SourceTree`.
        environment: what decides the bits of a result besides code and data: device, threads, package versions.
    """

    commit: str
    tree: str
    patch: str
    params: str
    params_redacted: bool
    omitted: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def is_dirty(self) -> bool:
        """Whether files differed from the commit."""
        return self.patch != NONE or bool(self.omitted)


def record_source(store: Store, run_id: str) -> tuple[Source, str]:
    """Store the present code and parameters in a run; return them and their digest.

    The files go to source/DIGEST/ of the run's artifacts, and then the tag `clipbert.source` names the digest.
    """
    files, source = _describe(store.root)
    digest = hashlib.sha256(files[DESCRIPTION]).hexdigest()
    upload(store, run_id, f"{FOLDER}/{digest[:12]}", files)
    store.client.set_tag(run_id, SOURCE_TAG, digest)
    return source, digest


def read_source(store: Store, run_id: str, digest: str, title: str) -> Source:
    """Return what `record_source` stored.

    Args:
        title: what the source belongs to, for messages.

    Raises:
        ClipBertError: the file is missing or is not the one that was stored.
    """
    text = download(store, run_id, f"{FOLDER}/{digest[:12]}/{DESCRIPTION}", digest, title)
    return Source(**json.loads(text))


def read_source_file(store: Store, run_id: str, digest: str, name: str, sha256: str | None, title: str) -> bytes:
    """Return `changes.patch` or `params.yaml` of a source; `sha256` None: it is not compared."""
    return download(store, run_id, f"{FOLDER}/{digest[:12]}/{name}", sha256, title)


def upload(store: Store, run_id: str, folder: str, files: Mapping[str, bytes]) -> None:
    """Store files in a folder of a run's artifacts."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            Path(scratch, name).write_bytes(content)
        store.client.log_artifacts(run_id, scratch, folder)


def download(store: Store, run_id: str, artifact: str, sha256: str | None, title: str) -> bytes:
    """Return the content of an artifact after a check of its digest.

    Raises:
        ClipBertError: it is missing, or its digest is another one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            content = Path(store.client.download_artifacts(run_id, artifact, scratch)).read_bytes()
        except (MlflowException, OSError) as error:
            raise ClipBertError(
                f"{title}: {artifact} of run {run_id} is not in {store.display_uri}. Restore the artifacts of the "
                "store from a backup."
            ) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise ClipBertError(
            f"{title}: {artifact} of run {run_id} is not the file that was stored: its SHA-256 is {found[:12]}..., "
            f"expected {str(sha256)[:12]}... Restore the artifacts of the store from a backup."
        )
    return content


def environment() -> dict[str, str]:
    """Return what decides the bits of a result besides code and data."""
    found = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device_name(),
        "threads": threads(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def threads() -> str:
    """Return the number of threads with which torch computes in this process, or would."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return str(torch.get_num_threads())
    return os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count() or 1)


def _describe(root: Path) -> tuple[dict[str, bytes], Source]:
    tree = source_tree(root) or SourceTree(NONE, NONE)
    files = {PATCH: tree.patch} if tree.patch else {}
    params, redacted = NONE, False
    if (root / PARAMS).is_file():
        content = (root / PARAMS).read_bytes()
        params = hashlib.sha256(content).hexdigest()
        text = content.decode(errors="replace")
        redacted = redact(text) != text
        files[PARAMS] = redact(text).encode() if redacted else content
    patch = hashlib.sha256(tree.patch).hexdigest() if tree.patch else NONE
    source = Source(tree.commit, tree.tree, patch, params, redacted, dict(tree.omitted), environment())
    files[DESCRIPTION] = _json(asdict(source))
    return files, source


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
