"""A start from a model folder: which weights are taken, which sizes are kept, what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import build_from_params

from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig, ClipBertForPreTraining, ClipBertForRetrieval, ClipBertProcessor
from clipbert.model.weights.checksums import sign_folder
from clipbert.model.weights.init_from import Start, digest, parts
from clipbert.project import Project
from clipbert.stages import train
from clipbert.tasks import make_task
from clipbert.tasks.batch import Example
from clipbert.training.fingerprint import fingerprint

WORDS = ["a red square moves", "what color is it", "blue", "green"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64}
EXAMPLE = Example("v", ["q", "r"], ["unheard words", "?"], ["red", "blue"], ["", ""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "model"
    tokenizer = ClipBertProcessor.train_tokenizer(WORDS, vocab_size=100)
    config = ClipBertConfig.tiny(vocab_size=len(tokenizer), clips=2, projection_size=None, **SIZES)
    torch.manual_seed(7)
    ClipBertForPreTraining(config).save_pretrained(out)
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained(out)
    return out


def params(folder: Path | str, **model: object) -> Params:
    return Params.model_validate({"model": {"init_from": str(folder)} | model})


def test_a_task_takes_weights_sizes_and_words_and_draws_its_head(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = build_from_params(make_task("open_qa", Params().tasks), [EXAMPLE], params(folder))
    begin = Start.read(folder)
    given = begin.model.state_dict()
    taken = [name for name in model.state_dict() if name.startswith("clipbert.")]
    assert len(taken) > 50
    assert all(torch.equal(model.state_dict()[name], given[name]) for name in taken)
    assert (model.config.hidden_size, model.config.clips, model.config.answers) == (32, 2, ["blue", "red"])
    assert processor.tokenizer.get_vocab() == begin.processor.tokenizer.get_vocab()
    said = " ".join(capsys.readouterr().out.split())
    assert "open_qa starts from" in said
    assert said.endswith("fresh: classifier.0, classifier.2")


def test_the_contrastive_projections_are_taken_where_both_have_them(folder: Path, tmp_path: Path) -> None:
    config = ClipBertConfig.from_pretrained(folder, projection_size=128)
    ClipBertForRetrieval(config).save_pretrained(tmp_path)
    ClipBertProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    begin, task = Start.read(tmp_path), make_task("retrieval", Params().tasks)
    model = task.objective.model_class(begin.config({}, task.objective.config_fields([])))
    assert begin.give(model) == []
    assert torch.equal(model.contrast.text_projection.weight, begin.model.contrast.text_projection.weight)

    without = task.objective.model_class(Start.read(folder).config({}, task.objective.config_fields([])))
    assert {name.split(".")[0] for name in Start.read(folder).give(without)} == {"contrast", "classifier"}


def test_what_leaves_the_weights_usable_may_be_overridden(folder: Path) -> None:
    chosen = params(folder, clips=4, image_size=96, hidden_size=32)
    model, processor = build_from_params(make_task("open_qa", Params().tasks), [EXAMPLE], chosen)
    assert (model.config.clips, processor.clips, processor.image_size) == (4, Params().evaluate.clips, 96)


def test_frames_may_be_fused_otherwise_by_fresh_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = params(folder, frame_fusion="attention", frames_per_clip=4)
    model, _ = build_from_params(make_task("open_qa", Params().tasks), [EXAMPLE], chosen)
    assert (model.config.frame_fusion, model.config.frames_per_clip) == ("attention", 4)
    said = " ".join(capsys.readouterr().out.split())
    assert "visual_embeddings.frame_position_embeddings" in said
    assert "visual_embeddings.temporal_attention.query_key_value" in said


@pytest.mark.parametrize(("name", "value", "stored"), [("hidden_size", 64, 32), ("num_hidden_layers", 2, 1)])
def test_other_sizes_are_refused_with_the_reason(folder: Path, name: str, value: int, stored: int) -> None:
    with pytest.raises(ClipBertError, match=rf"model.{name} = {value}, but model.init_from .* has {stored}"):
        build_from_params(make_task("open_qa", Params().tasks), [EXAMPLE], params(folder, **{name: value}))


def test_a_missing_or_half_written_folder_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match=r"model.init_from: .*nowhere: not found: expected a model folder"):
        Start.read(tmp_path / "nowhere")
    with pytest.raises(ClipBertError, match=r"nowhere: not found"):
        digest(tmp_path / "nowhere")
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    (half / "model.safetensors").unlink()
    with pytest.raises(ClipBertError, match="model folder is incomplete"):
        Start.read(half)


def test_a_tokenizer_larger_than_its_model_is_refused(folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    more = ClipBertProcessor.train_tokenizer([*WORDS, *WORDS, "ýž čš çß"], vocab_size=400)
    more.save_pretrained(str(mixed))
    sign_folder(mixed)
    with pytest.raises(ClipBertError, match="they do not belong to the same model"):
        Start.read(mixed)


def fingerprint_of(project: Project, settings: Params) -> dict[str, Any]:
    return fingerprint(project, settings.training_parameters("open_qa"), settings.model)


def test_another_start_is_another_fingerprint(tiny_project: Path, folder: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(folder, start)
    project = Project(tiny_project)
    before = fingerprint_of(project, params(start))
    weights = start / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    after = fingerprint_of(project, params(start))
    assert [name for name in before if before[name] != after[name]] == ["the model of model.init_from"]
    assert "the model of model.init_from" not in fingerprint_of(project, Params())


def test_a_training_does_not_start_from_what_it_writes(tiny_project: Path) -> None:
    with pytest.raises(ClipBertError, match="artifacts/models/retrieval is the folder that this training writes"):
        train(Project(tiny_project), "retrieval", params("artifacts/models/retrieval"))


def test_pretraining_starts_from_the_parts_and_the_other_tasks_from_its_model(tmp_path: Path) -> None:
    chosen = params("artifacts/models/pretrain", vision="models/resnet", text="models/bert")
    first, then = (chosen.model.resolve_init_from(task, Project(tmp_path)) for task in ("pretrain", "retrieval"))
    assert (first.start_from, first.vision_from, first.text_from) == (None, "models/resnet", "models/bert")
    assert (then.start_from, then.vision_from, then.text_from) == ("artifacts/models/pretrain", None, None)
    other = params("models/old", vision="models/resnet").model
    assert other.resolve_init_from("retrieval", Project(tmp_path)) == other


def test_parts_are_named_once() -> None:
    assert parts(["classifier.0.weight", "classifier.0.bias", "contrast.logit_scale"]) == "classifier.0, contrast"
