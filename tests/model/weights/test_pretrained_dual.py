"""Dual encoders from folders and from the hub's cache: what they decide, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dual_encoders import KINDS, reference, write_clip, write_dual_encoder, write_vit
from transformers import SiglipConfig, SiglipModel

from clipbert.config.schema import SCRATCH, Params
from clipbert.errors import ClipBertError
from clipbert.model.weights.pretrained_dual import read_dual_encoder
from clipbert.tasks import make_task
from clipbert.tasks.batch import Example
from clipbert.training.setup import build_model

EXAMPLE = Example("v", ["q", "r"], ["what color is it", "is it blue"], ["red", "blue"], ["", ""])
READ_FROM_THE_HUB = """
from clipbert.errors import ClipBertError
from clipbert.model.weights.pretrained import read_vision
from clipbert.model.weights.pretrained_dual import read_dual_encoder

part = read_dual_encoder("somebody/clip")
print(len(part.weights), part.tokenizer(["a red circle"]).shape, len(read_vision("somebody/clip").weights))
try:
    read_dual_encoder("somebody/other")
except ClipBertError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dual_encoders")
    for kind in KINDS:
        write_dual_encoder(kind, root / kind)
    return root


def build(task: str = "retrieval", frames: int = 112, epochs: int | None = None, **model: object) -> tuple[Any, Any]:
    values: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in model.items()}
    sections = {"model": values, "frames": {"size": frames}}
    params = Params.model_validate(sections | ({} if epochs is None else {"tasks": {task: {"epochs": epochs}}}))
    return build_model(make_task(task, params.tasks), [EXAMPLE], params.model, params.frames, params.evaluate.clips)


@pytest.mark.parametrize(("kind", "size", "length", "rows"), [("clip", 20, 77, 1), ("siglip", 32, 64, 1)])
def test_the_source_decides_sizes_and_frames(kind: str, size: int, length: int, rows: int, folders: Path) -> None:
    model, processor = build(dual_encoder=folders / kind)
    config = model.config
    assert (config.projection_size, config.dual_text_length, config.embedding_tokens) == (size, length, rows)
    assert (config.image_size, processor.image_size, processor.dual_tokenizer.length) == (48, 48, length)
    assert build(dual_encoder=folders / kind, hidden_size=16, num_attention_heads=2)[0].config.embedding_tokens == 2
    assert build(dual_encoder=folders / kind, image_size=64)[0].config.image_size == 64


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_loaded(kind: str, folders: Path) -> None:
    model, _ = build(dual_encoder=folders / kind)
    part = read_dual_encoder(str(folders / kind))
    state = model.state_dict()
    assert len(part.weights) == len(reference(kind, folders / kind).state_dict())
    assert all((state[name] == value).all() for name, value in part.weights.items())


def test_a_preprocessor_decides_the_frames(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "clip", tmp_path / "clip")
    settings = {"do_center_crop": False, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    (tmp_path / "clip" / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    part = read_dual_encoder(str(tmp_path / "clip"))
    assert part.resize == "stretch"
    assert part.fields["image_mean"] == pytest.approx([25.5] * 3)


def test_another_task_has_the_vision_half(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, processor = build("open_qa", dual_encoder=folders / "siglip")
    assert model.config.vision["model_type"] == "siglip_vision_model"
    assert model.config.image_size == 48
    assert (model.config.dual_encoder, processor.dual_tokenizer, processor.resize) == (None, None, "pad")
    assert (
        f"open_qa: 37 weights of model.dual_encoder from {folders / 'siglip'}; patch tokens" in capsys.readouterr().out
    )


@pytest.mark.slow
def test_an_id_is_read_from_the_hubs_cache_without_a_network(folders: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--somebody--clip"
    shutil.copytree(folders / "clip", repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        environment.pop(name, None)
    (tmp_path / "read.py").write_text(READ_FROM_THE_HUB)
    # a new interpreter: the hub client reads the environment when it is imported
    command = [sys.executable, str(tmp_path / "read.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    read, missing = done.stdout.strip().split("\n")
    assert read == "78 torch.Size([1, 77]) 39"
    assert missing.startswith("model.dual_encoder: somebody/other: config.json cannot be read (")
    assert missing.endswith(
        "No such folder here, and the hub gave no such model: check the id and the network (HF_HUB_OFFLINE), or "
        "download it on another machine and name its folder."
    )


def test_other_kinds_of_models_are_refused(folders: Path, tmp_path: Path) -> None:
    message = (
        f"model.dual_encoder: {tmp_path}/vit: its model_type is 'vit': expected a dual encoder of images and texts"
    )
    with pytest.raises(ClipBertError, match=message):
        read_dual_encoder(str(write_vit(tmp_path / "vit")))
    reference("clip", folders / "clip").vision_model.save_pretrained(tmp_path / "half")
    with pytest.raises(ClipBertError, match=r"'clip_vision_model': .* A vision encoder alone goes into model.vision"):
        read_dual_encoder(str(tmp_path / "half"))
    config = SiglipConfig.from_pretrained(folders / "siglip")
    config.vision_config.vision_use_head = False
    SiglipModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(
        ClipBertError, match=r"headless: its vision model has no pooling head .* use it as model.vision"
    ):
        read_dual_encoder(str(tmp_path / "headless"))
    with pytest.raises(ClipBertError, match=rf"model.dual_encoder: {tmp_path}/nowhere: not found: expected a folder"):
        read_dual_encoder(str(tmp_path / "nowhere"))


def test_a_tokenizer_must_be_there_and_fit(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "clip", tmp_path / "clip")
    for path in (tmp_path / "clip").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(
        ClipBertError, match=r"model.dual_encoder: .*/clip: no tokenizer could be read \(none of tokenizer"
    ):
        read_dual_encoder(str(tmp_path / "clip"))
    write_clip(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    config["text_config"]["vocab_size"] = 60
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ClipBertError, match=r"1 weights of CLIPModel are mis-shaped: text_model.embeddings.token_embedding"
    ):
        read_dual_encoder(str(tmp_path / "small"))


@pytest.mark.parametrize(
    ("model", "frames", "message"),
    [
        ({"image_size": 50}, 112, "image_size is 50: expected a multiple of vision.patch_size (8). (with what "),
        ({"image_size": 32}, 40, None),
        ({}, 96, None),
        (
            {"vision": "some/model"},
            112,
            "and model.vision = some/model: the dual encoder has its own vision. Set one of",
        ),
        ({"init_from": "some/folder"}, 112, "model.init_from = some/folder and model.dual_encoder = "),
    ],
)
def test_contradictions_name_the_parameters(
    model: dict[str, object], frames: int, message: str | None, folders: Path
) -> None:
    values = {"dual_encoder": folders / "clip"} | model
    if message is None:
        frames = max(frames, 96)
        build(frames=frames, **values)
        return
    with pytest.raises(ClipBertError, match=re.escape(message)):
        build(frames=frames, **values)


def test_frames_smaller_than_its_images_are_refused(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip", image_size=128)
    message = (
        "frames.size = 112 is smaller than the image size 128 of model.dual_encoder .* Set frames.size to 128 or more"
    )
    with pytest.raises(ClipBertError, match=message):
        build(dual_encoder=folder)
    assert build(dual_encoder=folder, image_size=96)[0].config.image_size == 96


def test_no_epochs_need_initial_weights(folders: Path) -> None:
    with pytest.raises(ClipBertError, match=r"tasks.retrieval.epochs is 0, .* random. Set model.dual_encoder"):
        build(epochs=0)
    build(epochs=0, dual_encoder=folders / "clip")
    assert Params().model.dual_encoder == SCRATCH
    assert Params().model.dual_encoder_from is None


def test_a_trained_model_passes_its_dual_encoder_on(folders: Path, tmp_path: Path) -> None:
    first, processor = build(dual_encoder=folders / "clip", hidden_size=16, num_attention_heads=2)
    first.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    again, same = build(init_from=tmp_path / "first")
    assert (again.config.dual_encoder, again.config.projection_size) == (first.config.dual_encoder, 20)
    state = again.state_dict()
    assert all((state[name] == value).all() for name, value in first.state_dict().items())
    assert (same.resize, same.dual_tokenizer.length) == ("crop", 77)
    other, plain = build("open_qa", init_from=tmp_path / "first")
    assert (other.config.dual_encoder, plain.dual_tokenizer, plain.resize) == (None, None, "crop")
    vision = "clipbert.vision.backbone.model.embeddings.patch_embedding.weight"
    assert (other.state_dict()[vision] == state[vision]).all()
