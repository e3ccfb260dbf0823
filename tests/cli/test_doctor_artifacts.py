"""`clipbert doctor` names each damaged file of a finished pipeline with a way to restore it."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from clipbert.cli import doctor
from clipbert.data.ingest.probe import MediaInfo
from clipbert.data.ingest.probe_cache import ProbeCache
from clipbert.evaluation.predictions_file import write_predictions
from clipbert.files.checksums import write_checksums
from clipbert.files.signed_json import write_signed_json
from clipbert.model import ClipBertConfig, ClipBertForRetrieval, ClipBertProcessor
from clipbert.pretrained.folder import get_part
from clipbert.project import Project
from clipbert.training.history import read_history


@pytest.fixture
def project(tiny_project: Path, tmp_path: Path) -> Project:
    """A project with every kind of file that the pipeline writes."""
    shutil.copytree(tiny_project / "artifacts", tmp_path / "artifacts")
    project = Project(tmp_path)
    tokenizer = ClipBertProcessor.train_tokenizer(["a red circle moves", "a blue square"] * 2, 200)
    config = ClipBertConfig.tiny(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, image_size=32)
    ClipBertForRetrieval(config).save_pretrained(project.model("retrieval"))
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained(project.model("retrieval"))
    history = project.history("retrieval")
    history.mkdir(parents=True)
    for name in ("train.csv", "val.csv"):
        (history / name).write_text("step,loss\n1,2.5\n2,2.25\n")
    write_checksums(history, history.glob("*.csv"))
    metrics = {"retrieval/r1": 42.0}
    write_predictions(project.predictions("retrieval"), pd.DataFrame({"item_id": ["a"], "score": [0.5]}), metrics)
    for path, value in ((project.metrics("retrieval"), metrics), (project.run("retrieval"), {"run_id": "0"})):
        path.parent.mkdir()
        path.write_text(json.dumps(value))
    project.release("retrieval").parent.mkdir()
    project.release("retrieval").write_text("{}")
    memory = ProbeCache(project.artifacts / "probes" / "probes.sqlite", "s", "f")
    memory.add("a", "1", "0", MediaInfo("video", "0", 1, "mp4", "h264", 64, 48, 8.0, 2.0, 16, 0, "decord", "exact"))
    memory.close(complete=True)
    return project


def problems(project: Project) -> list[str]:
    return [finding.problem for finding in doctor.check_artifacts(project.root) if finding.problem is not None]


def test_whole_files_are_no_problem_and_an_empty_project_has_none(project: Project, tmp_path: Path) -> None:
    assert problems(project) == []
    kinds = {finding.what for finding in doctor.check_artifacts(project.root)}
    assert kinds == {"manifest", "probes", "frame cache", "models", "history", "evaluations", "descriptions"}
    assert list(doctor.check_artifacts(tmp_path / "empty")) == []


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("manifest/videos.parquet", "clipbert ingest"),
        ("manifest/texts.parquet", "clipbert ingest"),
        ("manifest/quarantine.jsonl", "clipbert ingest"),
        ("manifest/dropped_texts.json", "clipbert ingest"),
        ("manifest/checksums.sha256", "clipbert ingest"),
        ("models/retrieval/config.json", "dvc checkout"),
        ("models/retrieval/tokenizer.json", "dvc checkout"),
        ("models/retrieval/model.safetensors", "dvc checkout"),
        ("models/retrieval/checksums.sha256", "dvc checkout"),
        ("history/retrieval/val.csv", "dvc checkout"),
        ("predictions/retrieval.parquet", "clipbert evaluate retrieval"),
        ("metrics/retrieval.json", "clipbert evaluate retrieval"),
        ("runs/retrieval.json", "clipbert train retrieval"),
        ("releases/retrieval.json", "clipbert register retrieval"),
        ("frames/index.arrow", "clipbert frames"),
        ("probes/probes.sqlite", "clipbert ingest probes every file again"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_file_is_named_with_its_remedy(project: Project, name: str, remedy: str, damage: str) -> None:
    path = project.artifacts / name
    whole = path.read_bytes()
    if not whole or (name.startswith("probes") and damage == "empty"):
        whole = b"something else"  # an empty list of files, and a new database, are valid: other content is not
        path.write_bytes(whole)
    else:
        path.write_bytes(whole[: len(whole) * 6 // 10] if damage == "cut" else b"")
    found = problems(project)
    assert len(found) == 1, found
    assert str(path) in found[0]
    assert remedy in found[0]


def test_a_damaged_pretrained_part_is_named(project: Project) -> None:
    folder = project.root / "models" / "somebodys"
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"not checked: no part of `clipbert pretrained get`")
    get_part("efficientnet-lite0", folder.with_name("efficientnet-lite0"))
    assert problems(project) == []
    path = folder.with_name("efficientnet-lite0") / "preprocessor_config.json"
    path.write_text(path.read_text().replace("224", "225"))
    (found,) = problems(project)
    assert f"{path}: damaged or edited" in found
    assert f"clipbert pretrained get NAME --out {path.parent} --force" in found


def test_a_shard_that_was_cut_off_is_named(project: Project) -> None:
    (shard,) = project.frames.glob("*.tar")
    shard.write_bytes(shard.read_bytes()[:-2000])
    assert f"{shard}: has {shard.stat().st_size} bytes of at least" in problems(project)[0]


def test_a_changed_number_in_metrics_or_curves_is_noticed(project: Project) -> None:
    metrics, curve = project.metrics("retrieval"), project.history("retrieval") / "val.csv"
    read_history(project.history("retrieval"), "retrieval")
    metrics.write_text(metrics.read_text().replace("42.0", "52.0"))
    curve.write_text(curve.read_text().replace("2.25", "1.25"))
    first, second = problems(project)
    assert f"{curve}: damaged or edited" in first
    assert f"{metrics}: retrieval/r1 is 52.0, but the evaluation computed 42.0" in second
    with pytest.raises(doctor.ClipBertError, match=r"val\.csv: damaged or edited .* dvc checkout"):
        read_history(project.history("retrieval"), "retrieval")


@pytest.mark.parametrize(("kind", "stage"), [("run", "train"), ("release", "register")])
def test_a_changed_digit_in_a_description_is_found(project: Project, kind: str, stage: str) -> None:
    path: Path = getattr(project, kind)("retrieval")
    write_signed_json(path, {"task": "retrieval", "version": "12"})
    assert problems(project) == []
    path.write_text(path.read_text().replace('"12"', '"13"'))
    (found,) = problems(project)
    assert f"{path}: damaged or edited" in found
    assert f"dvc checkout {path}, or rerun: clipbert {stage} retrieval" in found
