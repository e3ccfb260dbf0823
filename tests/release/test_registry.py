import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import av
import mlflow
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from small_releases import register_sections

from clipbert import pipeline
from clipbert.config.schema import EvaluateParams, Params
from clipbert.errors import ClipBertError
from clipbert.evaluation.item_checks import check_predictions
from clipbert.files.signed_json import read_signed_json, write_signed_json
from clipbert.model import load
from clipbert.model.weights.card import CARD, model_card, write_card
from clipbert.model.weights.checksums import sign_model
from clipbert.release import registry
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.registry import download_model, model_digest, predictions_path, register
from clipbert.release.runs import find_run
from clipbert.tasks import task_class

NAME = "clipbert-retrieval"
SECTIONS = register_sections("retrieval", Params())


def versions(root: Path) -> list:
    return open_store(root).client.search_model_versions(f"name = '{NAME}'")


def test_registered_version_has_alias_tags_and_file(any_root, release, make_model, predictions):
    made = release(0, predictions(30))
    store = open_store(any_root)
    assert made == registry.Release(
        "retrieval", NAME, "1", made.run_id, model_digest(make_model("retrieval", 0)), "candidate"
    )
    assert read_signed_json(any_root / "artifacts/releases/retrieval.json", "") == asdict(made)
    assert aliases(store, NAME) == {"candidate": "1"}
    (version,) = versions(any_root)
    assert version.tags["digest"] == made.digest
    assert version.tags["git_commit"] == "c0ffee"
    assert version.tags["data_digest"] == version.tags["dvc_lock"] == "none"
    assert version.tags["metric.retrieval/r1"] == "50"
    assert version.run_id == made.run_id
    run = store.client.get_run(made.run_id)
    assert run.data.metrics["retrieval/r1"] == 50
    assert run.data.tags["clipbert.restored"] == "true"
    assert [output.model_id for output in run.outputs.model_outputs] == [version.tags["model_id"]]
    assert store.client.get_logged_model(version.tags["model_id"]).metrics[0].value == 50
    listed = store.client.list_artifacts(made.run_id, "predictions")
    assert [file.path for file in listed] == [predictions_path("retrieval", made.digest)]


def test_registering_the_same_model_again_makes_nothing_new(any_root, release, predictions):
    first = release(0, predictions(30))
    store = open_store(any_root)
    version, history = versions(any_root)[0], store.client.get_metric_history(first.run_id, "retrieval/r1")
    assert release(0, predictions(30)) == first
    (again,) = versions(any_root)
    assert again.last_updated_timestamp == version.last_updated_timestamp
    assert len(store.client.get_metric_history(first.run_id, "retrieval/r1")) == len(history)
    assert len(store.client.search_logged_models([store.client.get_run(first.run_id).info.experiment_id])) == 1


def test_candidate_follows_the_last_registration(root, release_embedded, predictions):
    store = open_store(root)
    assert [release_embedded(seed, predictions(30)).version for seed in (0, 1, 0)] == ["1", "2", "1"]
    assert aliases(store, NAME) == {"candidate": "1"}


def test_new_evaluation_of_the_same_model_replaces_its_numbers(root, release_embedded, predictions):
    made = release_embedded(0, predictions(30))
    better = Params(evaluate=EvaluateParams(clips=8))
    assert release_embedded(0, predictions(45), params=better) == made
    (version,) = versions(root)
    assert version.tags["metric.retrieval/r1"] == "75"
    assert version.tags["evaluation.clips"] == "8"
    stored = open_store(root).client.download_artifacts(made.run_id, predictions_path("retrieval", made.digest))
    assert pd.read_parquet(stored)["score"].sum() == 45


def test_digest_depends_on_names_and_bytes_alone(tmp_path, make_model):
    one, two = make_model("retrieval", 0), make_model("retrieval", 1)
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in sorted(one.iterdir(), reverse=True):
        (copy / file.name).write_bytes(file.read_bytes())
    assert model_digest(copy) == model_digest(one) != model_digest(two)
    (copy / "README.md").write_text("made from another commit")
    assert model_digest(copy) == model_digest(one)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert model_digest(copy) != model_digest(one)


def test_the_registered_card_has_the_figures_of_the_last_evaluation(any_root, release, predictions, tmp_path):
    made = release(0, predictions(30))
    for step, correct in enumerate((30, 45)):
        release(0, predictions(correct))
        folder = download_model(open_store(any_root), NAME, "1", tmp_path / str(step))
        card = ModelCard.load(folder / CARD)
        metrics = json.loads((any_root / "metrics-0.json").read_text())
        assert {result.metric_name: result.metric_value for result in card.data.eval_results} == metrics
        assert f"| retrieval/r1 | {metrics['retrieval/r1']} |" in card.text
        assert made.run_id in card.text
        assert model_digest(folder) == made.digest
        load(folder)


def test_the_trained_models_card_is_completed(root, make_model, predictions, tmp_path):
    trained = tmp_path / "retrieval"
    shutil.copytree(make_model("retrieval", 0), trained)
    write_card(
        trained, model_card(task_class("retrieval").card, "m", "ClipBertForRetrieval", {"Lineage": "commit c0ffee"})
    )
    before = (trained / CARD).read_bytes()
    run_json, metrics_json, table = root / "run.json", root / "metrics.json", root / "predictions.parquet"
    run_json.write_text(json.dumps({"task": "retrieval", "run_id": "0" * 32}))
    metrics_json.write_text('{"retrieval/r1": 50.0}')
    predictions(30).to_parquet(table)
    register(root, "retrieval", trained, run_json, metrics_json, table, root / "out.json", **SECTIONS)
    card = (download_model(open_store(root), NAME, "1", tmp_path / "down") / CARD).read_text()
    assert "commit c0ffee" in card
    assert "| retrieval/r1 | 50.0 |" in card
    assert (trained / CARD).read_bytes() == before


def test_files_that_were_changed_in_the_store_are_refused(root, release_embedded, tmp_path, predictions):
    """With checksums that fit the changed files: the registry's digest is another place."""
    release_embedded(0, predictions(30))
    (config,) = (root / "mlflow" / "artifacts").rglob("artifacts/retrieval/config.json")
    config.write_text(config.read_text().replace("}", " }", 1))
    sign_model(config.parent)
    with pytest.raises(ClipBertError, match=r"version 1: its files .* are not those that were registered"):
        download_model(open_store(root), NAME, "1", tmp_path / "down")


def test_download_gives_the_same_model_back(any_root, release, make_model, tmp_path, predictions):
    made = release(0, predictions(30))
    folder = download_model(open_store(any_root), NAME, "1", tmp_path / "down")
    assert model_digest(folder) == made.digest == model_digest(make_model("retrieval", 0))


@pytest.mark.parametrize("any_root", ["server"], indirect=True)
def test_loaded_models_answer_as_the_models_themselves(any_root, release, make_model, video, tmp_path, predictions):
    """In a fresh process that may not unpickle, with nothing but the address of the store."""
    texts = ["a red square moves left", "how many shapes appear?", "a blue circle"]
    tasks = {"retrieval": "text", "open_qa": "question"}
    for task, column in tasks.items():
        release(0, predictions(30), task)
        asked = pd.DataFrame({"video": [str(video)] * 3, column: texts}, index=[7, 3, 3])
        asked.to_parquet(tmp_path / f"{task}.parquet")
    program = """
        import mlflow, pandas as pd
        for task in ("retrieval", "open_qa"):
            model = mlflow.pyfunc.load_model(f"models:/clipbert-{task}@candidate")
            assert model.metadata.signature and model.input_example is not None
            model.predict(pd.read_parquet(f"{task}.parquet")).to_parquet(f"{task}-answers.parquet")
    """
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    environment["CLIPBERT_MEDIA_ROOTS"] = str(video.parent)
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    for task in tasks:
        answers = pd.read_parquet(tmp_path / f"{task}-answers.parquet")
        assert list(answers.index) == [7, 3, 3]
        assert answers["error"].isna().all()
        pipe = pipeline(task, make_model(task, 0))
        for text, row in zip(texts, answers.to_dict("records"), strict=True):
            best = pipe(text, [video])[0] if task == "retrieval" else pipe(video, text)[0]
            assert row["score" if task == "retrieval" else "confidence"] == pytest.approx(best["score"], abs=1e-5)
            assert row.get("answer") == best.get("answer")


def test_the_served_model_uses_the_settings_of_its_folder_and_says_where_params_differ(
    root, release_embedded, predictions, tmp_path, capsys
):
    """A version is served with the settings of a pipeline on its folder, whatever params.yaml has when it registers."""
    release_embedded(0, predictions(30))
    assert "the served model" not in capsys.readouterr().out
    other = Params.model_validate({"evaluate": {"clips": 7}, "frames": {"fps": 4.0}})
    release_embedded(1, predictions(30), params=other)
    said = capsys.readouterr().out
    assert "clips = 2 (params.yaml: evaluate.clips = 7), fps = 2.0 (params.yaml: frames.fps = 4.0)" in said
    assert said.startswith("retrieval: the served model and pipelines use the settings of ")
    folder = download_model(open_store(root), NAME, "2", tmp_path / "down").parent.parent
    model = mlflow.pyfunc.load_model(str(folder))
    assert {param.name: param.default for param in model.metadata.get_params_schema().params} == {"clips": 2}
    assert (model.model_config["clips"], model.model_config["fps"]) == (2, 2.0)


def test_requirements_are_pinned_and_short(root, release_embedded, predictions, tmp_path):
    release_embedded(0, predictions(30))
    folder = download_model(open_store(root), NAME, "1", tmp_path / "down").parent.parent
    lines = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in lines)
    assert {line.split("==")[0] for line in lines} == {"mlflow", *registry.PACKAGES}
    assert not list(folder.rglob("__pycache__"))
    assert (folder / "code" / "clipbert" / "model").is_dir()


@pytest.mark.parametrize(
    ("broken", "content", "message"),
    [
        ("metrics", "[1]", r"metrics\.json: expected flat metrics"),
        ("run", "{", r"run\.json: expected the description of a training run"),
        ("run", '{"task": "retrieval"}', r"run\.json: expected .* task and run_id"),
        ("run", '{"task": "retrieval", "run_id": "1", "content_sha256": "0"}', r"run\.json: damaged or edited"),
        ("predictions", "text", r"predictions\.parquet: expected a table of predictions"),
    ],
)
def test_broken_inputs_are_named_and_register_nothing(root, make_model, predictions, broken, content, message):
    files = {"run": root / "run.json", "metrics": root / "metrics.json", "predictions": root / "predictions.parquet"}
    files["run"].write_text(json.dumps({"task": "retrieval", "run_id": "0" * 32}))
    files["metrics"].write_text('{"retrieval/r1": 1.0}')
    predictions(30).to_parquet(files["predictions"])
    files[broken].write_text(content)
    out = root / "out.json"
    model = make_model("retrieval", 0)
    with pytest.raises(ClipBertError, match=message):
        register(root, "retrieval", model, files["run"], files["metrics"], files["predictions"], out, **SECTIONS)
    assert not out.exists()
    assert versions(root) == []


def test_missing_model_and_doubled_items_are_named(root, make_model, predictions, tmp_path):
    with pytest.raises(ClipBertError, match=r"nowhere: no model here \(config.json is missing\)"):
        model_digest(tmp_path / "nowhere")
    doubled = pd.concat([predictions(3), predictions(3)])
    with pytest.raises(
        ClipBertError, match=r"found 120 rows, and \S+ twice or more\. Evaluate again: `clipbert evaluate"
    ):
        check_predictions(doubled, "here", "retrieval")
    with pytest.raises(ClipBertError, match=r"lack the column\(s\) chance"):
        check_predictions(predictions(3).drop(columns="chance"), "here", "retrieval")
    broken = predictions(3)
    broken.loc[1, "score"] = float("nan")
    with pytest.raises(ClipBertError, match=rf"here: the score of {broken['item_id'].iloc[1]} is not a finite number"):
        check_predictions(broken, "here", "retrieval")


def test_failed_upload_leaves_no_version(root, release_embedded, predictions, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "save_mlflow_model", fail)
        with pytest.raises(ClipBertError, match=r"cannot register clipbert-retrieval: .*No space left"):
            release_embedded(0, predictions(30))
    assert versions(root) == []
    assert not (root / "artifacts" / "releases").exists()
    assert replace(release_embedded(0, predictions(30)), run_id="").version == "1"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a square that moves over noise."""
    path = tmp_path_factory.mktemp("video") / "moving.mp4"
    noise = np.random.default_rng(0).integers(0, 80, (96, 128, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for step in range(24):
            image = noise.copy()
            image[30:60, 3 * step : 3 * step + 30] = (255, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_run_of_another_task_is_refused(root, make_model, predictions, tmp_path):
    run = tmp_path / "open_qa.json"
    write_signed_json(run, {"task": "retrieval", "run_id": "0" * 32})
    with pytest.raises(ClipBertError, match=r"open_qa\.json: expected the run of open_qa, found a run of retrieval"):
        find_run(open_store(root, "clipbert"), run)
