"""What each set of dependencies is enough for, in an environment that holds these packages and nothing else."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clipbert.model import ClipBertConfig, ClipBertForRetrieval, ClipBertProcessor

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
PIPELINE_ONLY = ("dvc", "great_expectations", "ijson", "matplotlib", "mlflow", "prefect", "psutil", "starlette")

USE_A_MODEL = """
import json, sys
import clipbert
from clipbert import pipeline
search = pipeline("retrieval", sys.argv[1])
found = search("a red circle", sys.argv[2:])
print(json.dumps({"videos": [row["video"] for row in found], "file": clipbert.__file__}))
"""


def closure(names: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that `names` require, by canonical name; names may carry extras."""
    wanted = [Requirement(name) for name in names]
    found: dict[str, importlib.metadata.Distribution] = {}
    seen = set()
    while wanted:
        requirement = wanted.pop()
        key = (canonicalize_name(requirement.name), tuple(sorted(requirement.extras)))
        if key in seen:
            continue
        seen.add(key)
        try:
            found[key[0]] = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a package of another platform's build, such as the CUDA libraries of torch
        for line in found[key[0]].requires or []:
            needed = Requirement(line)
            extras = [*requirement.extras, ""]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    return found


@pytest.fixture(scope="module")
def base_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel of this project and what it requires without any extra."""
    root = tmp_path_factory.mktemp("environment")
    # Built from a copy: setuptools leaves files in the folder that it builds.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, root)
    shutil.copytree(REPOSITORY / "src", root / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(root)], check=True, capture_output=True, text=True, cwd=root)
    (wheel,) = root.glob("clipbert-*.whl")
    venv.create(root / "venv", with_pip=False)
    python = root / "venv" / "bin" / "python"
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for name, distribution in closure(["clipbert"]).items():
        if name == "clipbert":
            continue
        for top in {file.parts[0] for file in distribution.files or [] if not file.parts[0].startswith("..")}:
            target = Path(str(distribution.locate_file(top)))
            if target.exists() and not (packages / top).exists() and top != "__pycache__":
                (packages / top).symlink_to(target)
    return python


def run(python: Path, *arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder and check its exit code."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_the_wheel_holds_every_module_and_template(base_python: Path) -> None:
    sources = REPOSITORY / "src" / "clipbert"
    (installed,) = (base_python.parents[1] / "lib").glob("python*/site-packages/clipbert")
    kinds = (".py", ".j2", ".css", ".typed")
    wanted = {path.relative_to(sources) for path in sources.rglob("*") if path.suffix in kinds}
    assert {path for path in wanted if not (installed / path).is_file()} == set()


def test_the_packages_of_the_pipeline_are_not_there(base_python: Path, tmp_path: Path) -> None:
    program = f"from importlib.util import find_spec; print([n for n in {PIPELINE_ONLY!r} if find_spec(n)])"
    assert run(base_python, "-c", program, cwd=tmp_path).stdout.strip() == "[]"


def test_a_model_is_loaded_and_used_without_the_pipeline(base_python: Path, tmp_path: Path, tiny_video) -> None:
    torch.manual_seed(0)
    tokenizer = ClipBertProcessor.train_tokenizer(["a red circle", "what color is it"] * 2)
    config = ClipBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        vision={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1]},
        image_size=64,
    )
    ClipBertForRetrieval(config).save_pretrained(tmp_path / "model")
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained(tmp_path / "model")
    videos = [str(tiny_video(tmp_path / f"{seed}.mp4", seed=seed)) for seed in range(2)]
    answer = json.loads(run(base_python, "-c", USE_A_MODEL, str(tmp_path / "model"), *videos, cwd=tmp_path).stdout)
    assert sorted(answer["videos"]) == videos
    assert Path(answer["file"]).is_relative_to(base_python.parents[1])


def test_a_verb_of_the_pipeline_names_the_extra(base_python: Path, tmp_path: Path) -> None:
    assert "Train" in run(base_python, "-m", "clipbert", "--help", cwd=tmp_path).stdout
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    done = run(base_python, "-m", "clipbert", "history", cwd=tmp_path, code=2)
    assert done.stderr.startswith("clipbert: The package mlflow is not installed: `pip install 'clipbert[pipeline]'`")
    assert "Traceback" not in done.stderr
