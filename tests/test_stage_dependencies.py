"""dvc.yaml lists the code that each stage imports."""

from pathlib import Path

import pytest
import yaml

from scripts.stage_dependencies import INFRASTRUCTURE, NOT_RUN, PACKAGE, Closure, declared, differences, rewritten

REPOSITORY = Path(__file__).resolve().parents[1]
DVC = (REPOSITORY / "dvc.yaml").read_text(encoding="utf-8")


def names(verb: str) -> set[str]:
    return {path.as_posix() for path in Closure().of_verb(verb)}


def test_the_stages_depend_on_the_code_that_they_run() -> None:
    assert differences(DVC) == [], "run `python scripts/stage_dependencies.py --write` and commit dvc.yaml"


def test_the_lists_are_those_that_dvc_reads() -> None:
    stages = yaml.safe_load(DVC)["stages"]
    listed = {stage: [dep for dep in stages[stage]["deps"] if dep.startswith(PACKAGE.as_posix())] for stage in stages}
    assert declared(DVC) == listed
    assert all((REPOSITORY / dep).exists() for deps in listed.values() for dep in deps)


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_training_and_evaluation_depend_on_what_chooses_their_clips(verb: str) -> None:
    assert {"sampling/clips.py", "frame_cache/reader.py", "tasks/open_qa.py", "text_normalization.py"} <= names(verb)


def test_training_does_not_depend_on_what_changes_no_model() -> None:
    found = names("train")
    assert "training/trainer.py" in found
    # The metrics of the validation choose the epoch.
    metrics = {path for path in found if path == "evaluation/__init__.py" or path.startswith("evaluation/metrics/")}
    assert not {
        path
        for path in found - metrics
        if path.startswith(("release/", "evaluation/", "inference/", "data/importers/", "cli"))
    }
    assert {"sampling/candidates.py", "model/weights/convert.py"} & found == set()


def test_ingest_depends_on_the_modules_that_its_list_lacked() -> None:
    lacked = {
        "video/media_types.py",
        "data/quarantine.py",
        "data/ingest/probe_cache.py",
        "sampling/clips.py",
        "process_pool.py",
    }
    assert lacked <= names("ingest")


def test_files_that_are_named_and_not_imported_count() -> None:
    assert {"data/validation/validation.html.j2", "data/validation/validation_docs.css"} <= names("validate")
    assert {"release/mlflow_model.py", "release/registry.py"} <= names("register")
    assert {"evaluation/report/report.html.j2", "evaluation/report/report.js", "pages/page.css"} <= names("evaluate")


def test_what_is_left_out_is_there() -> None:
    root = REPOSITORY / PACKAGE
    assert [name for name in INFRASTRUCTURE if not (root / name).exists()] == []
    for path, module in NOT_RUN:
        assert module in (root / path).read_text(encoding="utf-8")


def test_writing_changes_the_lists_and_nothing_else() -> None:
    lines = DVC.splitlines(keepends=True)
    sampling = next(number for number, line in enumerate(lines) if line.strip() == "- src/clipbert/training")
    commented = [*lines[:sampling], "      # why this one\n", "      - src/clipbert/gone.py\n", *lines[sampling + 1 :]]
    stale = "".join(commented)
    assert {line.partition(" ")[2] for line in differences(stale)} == {
        "src/clipbert/gone.py is not needed",
        "src/clipbert/training is missing",
    }
    written = rewritten(stale)
    assert differences(written) == []
    assert written.replace("      # why this one\n", "") == DVC
    assert rewritten(DVC) == DVC


def test_a_new_import_is_missed_by_name(tmp_path: Path) -> None:
    package = tmp_path / PACKAGE
    (package / "training").mkdir(parents=True)
    (package / "cli").mkdir()
    (package / "stages.py").write_text(
        "from clipbert.files.atomic import write\n"
        "LIMIT = 3\n"
        "def helper():\n    import clipbert.late\n"
        "def train():\n    from clipbert.training import trainer\n    helper()\n    write()\n"
        "def other():\n    import clipbert.other\n"
    )
    (package / "cli" / "pipeline.py").write_text("def train():\n    from clipbert.training.launch import launch\n")
    (package / "files").mkdir()
    for name in ("__init__", "files/atomic", "late", "other", "shared", "training/__init__", "training/launch"):
        (package / f"{name}.py").write_text("")
    (package / "training" / "trainer.py").write_text("def f():\n    import clipbert.shared as shared\n")
    text = "stages:\n  train:\n    cmd: clipbert train ${item.task}\n    deps:\n      - data  # raw\n    outs: [x]\n"
    assert differences(text, tmp_path) == [
        "train: src/clipbert/late.py is missing",
        "train: src/clipbert/shared.py is missing",
        "train: src/clipbert/training is missing",
    ]
    assert yaml.safe_load(rewritten(text, tmp_path))["stages"]["train"]["deps"] == [
        "data",
        "src/clipbert/late.py",
        "src/clipbert/shared.py",
        "src/clipbert/training",
    ]
