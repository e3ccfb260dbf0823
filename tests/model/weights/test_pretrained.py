"""Backbones and text encoders from folders: their weights, their normalization, what they change, what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_trainings import build_from_params
from torch import nn
from transformers import (
    AutoBackbone,
    AutoModelForImageClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ConvNextConfig,
    Dinov2Config,
    PreTrainedConfig,
    ResNetConfig,
    SwinConfig,
    ViTMAEConfig,
    ViTMAEModel,
)

from clipbert.config.schema import SCRATCH, Params
from clipbert.data.manifest import read_texts
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertProcessor, load
from clipbert.model.configuration import BACKBONES
from clipbert.model.weights.pretrained import read_text, read_vision
from clipbert.project import Project
from clipbert.tasks import make_task
from clipbert.tasks.batch import Example
from clipbert.training.checkpoint import Checkpoints
from clipbert.training.export import export
from clipbert.training.fingerprint import fingerprint
from clipbert.training.tracker import NoOpTracker
from clipbert.training.trainer import Trainer

WORDS = ["a red square moves left", "what color is it", "blue", "green"]
EXAMPLE = Example("v", ["q", "r"], ["what color", "is it blue"], ["red", "blue"], ["", ""])
SMALL = {"num_attention_heads": 2, "image_size": 56}
KINDS: dict[str, PreTrainedConfig] = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16, 24], depths=[1, 1, 1], num_stages=3),
    "swin": SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=56),
    "dinov2": Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14),
}
FIRST = {
    "resnet": "embedder.embedder.convolution.weight",
    "convnext": "embeddings.patch_embeddings.weight",
    "swin": "swin.embeddings.patch_embeddings.projection.weight",
    "dinov2": "embeddings.patch_embeddings.projection.weight",
}
OWN = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.2, 0.1]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each kind of backbone, random weights in it, and its normalization."""
    root = tmp_path_factory.mktemp("backbones")
    for kind, config in KINDS.items():
        torch.manual_seed(11)
        backbone = AutoBackbone.from_config(config)
        noise = {name: value + 0.05 * torch.randn(value.shape) for name, value in backbone.named_parameters()}
        backbone.load_state_dict(noise, strict=False)
        backbone.save_pretrained(root / kind)
        (root / kind / "preprocessor_config.json").write_text(json.dumps(OWN))
    return lambda kind: root / kind


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT with its head for masked words, as bert-base-uncased is stored."""
    out = tmp_path_factory.mktemp("text") / "bert"
    tokenizer = ClipBertProcessor.train_tokenizer(WORDS, vocab_size=80)
    tokenizer.save_pretrained(str(out))
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=96,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=64,
        hidden_act="relu",
        layer_norm_eps=1e-9,
    )
    BertForMaskedLM(config).save_pretrained(out)
    return out


def params(**model: object) -> Params:
    return Params.model_validate({"model": SMALL | {k: str(v) if isinstance(v, Path) else v for k, v in model.items()}})


def build(task: str = "open_qa", **model: object) -> tuple[Any, ClipBertProcessor]:
    return build_from_params(make_task(task, Params().tasks), [EXAMPLE], params(**model))


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_is_that_of_the_backbone_run_by_hand(kind: str, folders: Callable[[str], Path]) -> None:
    model, _ = build(vision=folders(kind))
    pixels = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)
    mean, std = (torch.tensor(OWN[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    alone = getattr(transformers, BACKBONES[kind]).from_pretrained(folders(kind), local_files_only=True).eval()
    vision = model.clipbert.vision.eval()
    with torch.no_grad():
        features = alone((pixels.float() / 255 - mean) / std).feature_maps[-1]
        by_hand = torch.relu(vision.pool(vision.projection(features))).permute(0, 2, 3, 1)
        assert by_hand.std() > 0
        torch.testing.assert_close(vision(pixels), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_first_layer(kind: str, folders: Callable[[str], Path]) -> None:
    model, _ = build(vision=folders(kind))
    model.train()
    pixels = torch.randint(0, 256, (2, 1, 1, 3, 56, 56), dtype=torch.uint8)
    ids = torch.tensor([[2, 10, 11, 3]] * 2)
    model(pixels, ids, labels=torch.tensor([0, 1])).loss.backward()
    assert dict(model.clipbert.vision.backbone.named_parameters())[FIRST[kind]].grad.abs().sum() > 0
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert model.config.freeze_batch_norm is (kind == "resnet") is bool(norms)
    assert all(not norm.training and norm.weight.grad is None for norm in norms)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_needs_its_source_no_more(kind: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folders(kind), source)
    model, processor = build(vision=source)
    model.eval().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    shutil.rmtree(source)
    again = load(tmp_path / "model")
    pixels = torch.randint(0, 256, (1, 2, 1, 3, 56, 56), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again.encode_video(pixels), model.encode_video(pixels))
    assert str(source) not in (tmp_path / "model" / "config.json").read_text()


def test_a_classifier_gives_its_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    classifier = AutoModelForImageClassification.from_config(KINDS["convnext"])
    classifier.save_pretrained(tmp_path)
    given = read_vision(str(tmp_path))
    assert torch.equal(
        given.weights[f"clipbert.vision.backbone.{FIRST['convnext']}"],
        classifier.state_dict()[f"convnext.{FIRST['convnext']}"],
    )
    assert given.remark == "normalization of ImageNet; fresh: hidden_states_norms.stage3"
    assert "id2label" not in given.fields["vision"]
    build(vision=tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert f"weights of model.vision from {tmp_path}; normalization of ImageNet" in said
    assert "frames of 56 pixels are 1 x 1 cells" in said


@pytest.mark.parametrize(
    ("stored", "mean", "std"),
    [
        (OWN, [127.5, 102.0, 76.5], [63.75, 51.0, 25.5]),
        ({"do_rescale": False, "image_mean": [1, 2, 3], "image_std": [1, 1, 1]}, [1, 2, 3], [1, 1, 1]),
        ({"do_normalize": False}, [0, 0, 0], [255, 255, 255]),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3}, [127.5] * 3, [127.5] * 3),
        (None, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    ],
)
def test_the_normalisation_is_the_backbones_own(
    stored: dict[str, Any] | None,
    mean: list[float],
    std: list[float],
    folders: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    shutil.copytree(folders("resnet"), tmp_path, dirs_exist_ok=True)
    path = tmp_path / "preprocessor_config.json"
    path.unlink()
    if stored is not None:
        path.write_text(json.dumps(stored))
    found = read_vision(str(tmp_path))
    assert found.fields["image_mean"] == pytest.approx(mean, abs=1e-5)
    assert found.fields["image_std"] == pytest.approx(std, abs=1e-5)


def test_a_text_encoder_gives_sizes_weights_and_words(bert: Path) -> None:
    model, processor = build("pretrain", text=bert, num_attention_heads=None)
    config, source = model.config, BertForMaskedLM.from_pretrained(bert, local_files_only=True).state_dict()
    sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert sizes == (24, 2, 3, 40)
    assert (config.vocab_size, config.hidden_act, config.layer_norm_eps, len(processor.tokenizer)) == (
        96,
        "relu",
        1e-9,
        len(read_text(str(bert)).tokenizer),
    )
    ours = model.state_dict()
    read = [name for name in source if name.startswith("bert.")]
    assert len(read) > 30
    assert all(torch.equal(ours[f"clipbert.{name.removeprefix('bert.')}"], source[name]) for name in read)
    for name in ("bias", "transform.dense.weight", "transform.LayerNorm.weight"):
        assert torch.equal(ours[f"cls.predictions.{name}"], source[f"cls.predictions.{name}"])
    assert model.cls.predictions.decoder.weight is model.clipbert.embeddings.word_embeddings.weight


def test_an_encoder_without_prefix_or_head_is_read(bert: Path, tmp_path: Path) -> None:
    encoder = BertModel.from_pretrained(bert, local_files_only=True)
    with torch.no_grad():
        encoder.pooler.dense.bias.fill_(0.25)
    encoder.save_pretrained(tmp_path)
    shutil.copy(bert / "tokenizer.json", tmp_path)
    shutil.copy(bert / "tokenizer_config.json", tmp_path)
    model, _ = build(text=tmp_path, num_attention_heads=None)
    assert torch.equal(model.clipbert.pooler.dense.bias, torch.full((24,), 0.25))
    assert torch.equal(
        model.clipbert.encoder.layer[1].output.dense.weight, encoder.encoder.layer[1].output.dense.weight
    )
    assert read_text(str(tmp_path)).remark == "fresh where a task has them: predictions"
    assert read_text(str(bert)).remark == "fresh where a task has them: pooler"


def test_a_checkpoint_of_old_names_in_an_old_file_is_read(bert: Path, tmp_path: Path) -> None:
    source = BertForMaskedLM.from_pretrained(bert, local_files_only=True).state_dict()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value.clone()
        for name, value in source.items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin")
    shutil.copy(bert / "config.json", tmp_path)
    words = read_text(str(bert)).tokenizer.get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(words, key=lambda word: words[word])))
    found, now = read_text(str(tmp_path)), read_text(str(bert))
    assert found.weights.keys() == now.weights.keys()
    assert all(torch.equal(value, now.weights[name]) for name, value in found.weights.items())
    assert found.tokenizer.get_vocab() == words


def test_two_steps_train_from_both_parts(
    tiny_project: Path, folders: Callable[[str], Path], bert: Path, tmp_path: Path
) -> None:
    settings = Params.model_validate(
        {
            "train": {"batch_size": 8, "lr": 0.01, "min_steps": 0},
            "tasks": {"open_qa": {"epochs": 1}},
            "model": {"vision": str(folders("convnext")), "text": str(bert), "image_size": 56, "max_text_length": 32},
        }
    )
    task = make_task("open_qa", settings.tasks)
    texts = read_texts(tiny_project / "artifacts" / "manifest")
    examples, val = task.examples.read(texts, "train"), task.examples.read(texts, "val")
    model, processor = build_from_params(task, examples, settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    checkpoints = Checkpoints(tmp_path / "checkpoints", {})
    train, cpu = settings.train, torch.device("cpu")
    trainer = Trainer(task, model, processor, cache, examples, val, train, 0, 256, checkpoints, cpu)
    trainer.resume()
    state = trainer.train(NoOpTracker())
    assert state.step >= 2
    after = model.state_dict()
    for name in (f"vision.backbone.{FIRST['convnext']}", "embeddings.word_embeddings.weight"):
        assert not torch.equal(before[f"clipbert.{name}"], after[f"clipbert.{name}"])
    export(model, processor, tmp_path / "model", "a card")
    assert load(tmp_path / "model").config.hidden_size == 24
    assert len(ClipBertProcessor.from_pretrained(tmp_path / "model").tokenizer) == len(processor.tokenizer)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"hidden_size": 64}, r"model.hidden_size = 64, but model.text \(.*bert\) has 24: its weights fit no other"),
        ({"num_attention_heads": 2}, r"model.num_attention_heads = 2, but model.text .* has 3"),
        ({"max_text_length": 100}, r"model: max_text_length is 100: expected at most max_position_embeddings \(64\)"),
    ],
)
def test_sizes_that_the_text_encoder_has_not_are_refused(bert: Path, model: dict[str, int], message: str) -> None:
    with pytest.raises(ClipBertError, match=message):
        build(**({"text": bert, "num_attention_heads": None} | model))


def test_image_sizes_that_the_backbone_does_not_take_are_refused(folders: Callable[[str], Path]) -> None:
    message = r"model: image_size is 60: expected a multiple of vision.patch_size \(14\)\. \(with what .*dinov2 has\)"
    with pytest.raises(ClipBertError, match=message):
        build(vision=folders("dinov2"), image_size=60)
    message = r"model.vision: .*convnext with model.image_size = 24: .* feature map of 1 x 1: expected at least 2 x 2"
    small = Params.model_validate({"model": SMALL | {"vision": str(folders("convnext")), "image_size": 32}})
    small.model.__dict__["image_size"] = 24  # params.yaml has 32 at least
    with pytest.raises(ClipBertError, match=message):
        build_from_params(make_task("open_qa", Params().tasks), [EXAMPLE], small)


def test_a_kind_without_feature_maps_is_refused(tmp_path: Path) -> None:
    config = ViTMAEConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ViTMAEModel(config).save_pretrained(tmp_path)
    message = f"model.vision: {tmp_path}: its model_type is 'vit_mae', which has neither feature maps .* one of beit, "
    with pytest.raises(ClipBertError, match=message):
        read_vision(str(tmp_path))


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Strange"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "strange.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ClipBertError, match=r"model.vision: .*: config.json cannot be read"):
        read_vision(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_text_encoder_of_another_kind_or_vocabulary_is_refused(
    bert: Path, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ClipBertError, match=r"model.text: .*: its model_type is 'resnet': expected an encoder of BERT"):
        read_text(str(folders("resnet")))
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    ClipBertProcessor.train_tokenizer([*WORDS, "0123456789 αβγδεζηθικλμνξοπρστ"], vocab_size=400).save_pretrained(
        str(tmp_path)
    )
    with pytest.raises(ClipBertError, match=r"model.text: .*: its tokenizer has \d+ words and its model 96"):
        read_text(str(tmp_path))


def test_missing_and_foreign_weights_are_listed(folders: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folders("resnet"), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"depths": [1, 2]}))
    with pytest.raises(ClipBertError, match=r"model.vision: .*: \d+ weights of ResNetBackbone are missing: encoder"):
        read_vision(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ClipBertError, match=r"model.vision: .*: the weights cannot be read .* save it again"):
        read_vision(str(tmp_path))


@pytest.mark.parametrize("read", [read_vision, read_text])
def test_a_place_that_is_not_there_is_said(
    read: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClipBertError, match=rf"model.(vision|text): {tmp_path}/nowhere: not found: expected a folder"):
        read(str(tmp_path / "nowhere"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = r"model.(vision|text): nobody/nothing: config.json cannot be read .* check the id and the network"
    with pytest.raises(ClipBertError, match=message):
        read("nobody/nothing")


def test_an_id_is_read_from_the_hubs_cache(
    bert: Path, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, folder in (("bert", bert), ("swin", folders("swin"))):
        repository = tmp_path / f"models--somebody--{name}"
        shutil.copytree(folder, repository / "snapshots" / "0123")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0123")
    assert read_text("somebody/bert").fields == read_text(str(bert)).fields
    assert read_vision("somebody/swin").fields == read_vision(str(folders("swin"))).fields


def test_two_starts_at_once_are_refused(bert: Path) -> None:
    with pytest.raises(ClipBertError, match=r"model.init_from = some/folder and model.text = .*: .* has its own text"):
        build(init_from="some/folder", text=bert)


def test_the_default_is_the_preset_itself() -> None:
    assert (Params().model.vision, Params().model.vision_from, Params().model.text_from) == (SCRATCH, None, None)
    assert params(vision=None, text=None).model.vision_from is None


def fingerprint_of(project: Project, settings: Params) -> dict[str, Any]:
    return fingerprint(project, settings.training_parameters("open_qa"), settings.model)


def test_another_backbone_is_another_fingerprint(
    tiny_project: Path, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(folders("resnet"), source)
    project = Project(tiny_project)
    before = fingerprint_of(project, params(vision=source))
    (source / "preprocessor_config.json").write_text("{}")
    after = fingerprint_of(project, params(vision=source))
    assert [name for name in before if before[name] != after[name]] == ["the model of model.vision"]
    assert re.fullmatch(r"[0-9a-f]{64}", after["the model of model.vision"])
    named = fingerprint_of(project, params(text="nobody/nothing"))
    assert named["model.text"] == "nobody/nothing"
    assert "the model of model.text" not in named
