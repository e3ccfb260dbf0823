import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from original_checkpoint import (
    CONFIG,
    FULL_SIZE,
    RESNET_50,
    SMALL_RESNET,
    checkpoint,
    classify,
    forward,
    grid,
    match,
    predict_words,
    resnet_shapes,
)
from transformers.models.resnet.modeling_resnet import ResNetBackbone

from clipbert.errors import ClipBertError
from clipbert.model import ClipBertForOpenQA, ClipBertForPreTraining, ClipBertProcessor, load
from clipbert.model.weights.convert import convert, convert_backbone, to_original
from clipbert.tasks import task_class

LABELS = {"retrieval": 2, "open_qa": 3, "image_qa": 3, "multiple_choice": 1, "pretrain": None}
DETECTOR = ("cnn.feature.proposal_generator", "cnn.feature.roi_heads")


@pytest.fixture
def files(tmp_path):
    """Where `base_model.json` and the answers lie, and how to save a checkpoint next to them."""
    (tmp_path / "base_model.json").write_text(json.dumps(CONFIG))
    (tmp_path / "answers.json").write_text(json.dumps({"red": 0, "two": 2, "blue": 1}))

    def save(content):
        torch.save(content, tmp_path / "original.pt")
        return tmp_path / "original.pt"

    return tmp_path, save


def run(files, content, task="retrieval", **options):
    folder, save = files
    answers = folder / "answers.json" if task in ("open_qa", "image_qa") else None
    out = folder / "model"
    card = task_class(task).card
    convert(save(content), folder / "base_model.json", task, card, out, **({"answers": answers} | options))
    return load(out)


def assert_close(found, expected):
    """The acceptance: a relative error of at most 1e-4 in float32."""
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("task", "labels"), [*LABELS.items(), ("retrieval", 1)])
def test_the_converted_model_gives_the_originals_numbers(files, inputs, task, labels):
    """Two videos of two clips of two frames, three padded texts, every head: each clip as the original sees it."""
    state = checkpoint(labels)
    model = run(files, state, task)
    owner = [0, 0, 1]
    clips = [inputs.pixel_values[owner][:, clip] for clip in range(2)]
    seen = [
        forward(state, clip, inputs.input_ids, inputs.attention_mask, CONFIG["num_attention_heads"]) for clip in clips
    ]
    with torch.no_grad():
        if task == "multiple_choice":
            out = model(**inputs.arguments(), options_per_question=torch.tensor([2, 1]))
        else:
            out = model(**inputs.arguments())
    if task == "pretrain":
        length = inputs.input_ids.shape[1]
        words = torch.stack([predict_words(state, s[:, :length]) for s, _ in seen], dim=1)
        tokens = inputs.attention_mask[:, None, :, None] == 1  # nothing reads what is predicted at padding
        assert_close(out.mlm_logits * tokens, words * tokens)
        assert_close(out.itm_logits, torch.stack([match(state, pooled) for _, pooled in seen], dim=1))
        return
    expected = torch.stack([classify(state, pooled) for _, pooled in seen], dim=1)
    assert_close(out.clip_logits, expected)
    if task != "multiple_choice":
        assert_close(out.logits, expected.logsumexp(dim=1))
    assert model.config.retrieval_loss == ("ranking" if labels == 1 and task == "retrieval" else "ce")


@pytest.mark.parametrize("task", LABELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_there_and_back_is_bit_exact(files, task, dtype):
    state = checkpoint(LABELS[task], dtype=dtype)
    run(files, {f"module.{name}": value for name, value in state.items()}, task)
    to_original(files[0] / "model", files[0] / "back.pt")
    back = torch.load(files[0] / "back.pt", weights_only=True)
    expected = {name: value for name, value in state.items() if not name.startswith(DETECTOR)}
    assert back.keys() == expected.keys()
    for name, value in expected.items():
        assert back[name].dtype == dtype
        assert torch.equal(back[name], value), name


def test_full_size_there_and_back(files):
    folder, _ = files
    (folder / "base_model.json").write_text(json.dumps(FULL_SIZE))
    state = checkpoint(2, FULL_SIZE, RESNET_50, torch.float16)
    model = run(files, state)
    assert model.config.vision["depths"] == [3, 4, 6, 3]
    assert sum(value.numel() for value in model.clipbert.encoder.parameters()) == 85_054_464
    to_original(folder / "model", folder / "back.pt")
    back = torch.load(folder / "back.pt", weights_only=True)
    assert all(torch.equal(back[name], value) for name, value in state.items() if not name.startswith(DETECTOR))


def test_a_training_state_is_read(files, capsys):
    state = checkpoint(2)
    content = {
        "global_step": 12,
        "model_state_dict": {name: value.half() for name, value in state.items()},
        "optim_state_dict": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
    }
    model = run(files, content)
    weight = model.clipbert.encoder.layer[0].output.dense.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["transformer.bert.encoder.layer.0.output.dense.weight"].half().float())
    said = " ".join(capsys.readouterr().out.split())
    assert "2 weights of the detector around the ResNet are not needed and left out" in said
    assert "no processor" in said


def test_a_pretrained_checkpoint_gets_a_fresh_head(files, capsys):
    model = run(files, checkpoint(None), "open_qa")
    assert isinstance(model, ClipBertForOpenQA)
    assert model.config.answers == ["red", "blue", "two"]
    said = " ".join(capsys.readouterr().out.split())
    assert "the task head is fresh, to be trained: transformer.classifier.0" in said
    assert "weights of another task's head are left out" in said


def test_a_card_says_what_it_was_made_from(files):
    run(files, checkpoint(None), "open_qa")
    folder, _ = files
    card = ModelCard.load(folder / "model" / "README.md")
    assert card.data.pipeline_tag == "video-text-to-text"
    digest = hashlib.sha256((folder / "original.pt").read_bytes()).hexdigest()
    assert f"| a checkpoint of the authors' code | original.pt |\n| its SHA-256 | {digest} |" in card.text
    assert "| fresh, to be trained | the task head |" in card.text
    assert "| tokenizer | none yet |" in card.text


def test_with_a_tokenizer_the_folder_is_whole(files):
    folder, _ = files
    words = [f"word{number}" for number in range(400)]
    tokenizer = ClipBertProcessor.train_tokenizer(words * 2, vocab_size=CONFIG["vocab_size"])
    tokenizer.save_pretrained(folder / "bert")
    if len(tokenizer) == CONFIG["vocab_size"]:
        run(files, checkpoint(2), tokenizer=str(folder / "bert"))
        assert ClipBertProcessor.from_pretrained(folder / "model").max_text_length == 32
    other = ClipBertProcessor.train_tokenizer(["abc"] * 2, vocab_size=CONFIG["vocab_size"])
    other.save_pretrained(folder / "other")
    with pytest.raises(ClipBertError, match=r"--tokenizer .*: \d+ tokens, but .* has word embeddings of 50"):
        run(files, checkpoint(2), tokenizer=str(folder / "other"))


def without(name):
    return {key: value for key, value in checkpoint(2).items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("cnn.grid_encoder.0.weight"), r"1 missing: cnn.grid_encoder.0.weight\n"),
        (without("transformer.classifier.2.bias"), r"1 missing: transformer.classifier.2.bias\n"),
        (
            checkpoint(2) | {"transformer.bert.pooler.dense.bias": torch.zeros(5)},
            r"1 mis-shaped: transformer.bert.pooler.dense.bias \(5,\), expected \(24,\)",
        ),
        (checkpoint(2) | {"transformer.extra": torch.zeros(1)}, "1 unknown: transformer.extra"),
        (checkpoint(3), r"mis-shaped: transformer.classifier.2.bias \(3,\), expected \(2,\)"),
        (without("cnn.feature.backbone.stem.conv1.weight"), "the weight stem.conv1.weight of the ResNet is missing"),
        (
            checkpoint(None) | {"transformer.cls.predictions.decoder.weight": torch.zeros(50, 24)},
            "decoder.weight differ from the embeddings they are tied to",
        ),
        ({"a": "text"}, "a is a str: expected weights only"),
        ({0: 1}, "0 is a int: expected weights only"),
        ([1, 2], "holds a list: expected a state dict"),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_is_written(files, content, message):
    with pytest.raises(ClipBertError, match=message):
        run(files, content)
    assert not (files[0] / "model").exists()


def test_every_missing_name_is_listed_as_the_file_would_call_it(files):
    state = {name: value for name, value in checkpoint(2).items() if ".encoder." not in name}
    with pytest.raises(ClipBertError) as error:
        run(files, state)
    assert [name for name in checkpoint(2) if name not in state and name not in str(error.value)] == []


def test_nothing_but_a_model_is_replaced(files):
    folder, save = files
    thesis = folder / "model" / "chapter.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(ClipBertError, match=r"model: holds other things than a model: name a new folder"):
        run(files, checkpoint(2))
    with pytest.raises(ClipBertError, match=r"model: holds other things than a model: name a new folder"):
        convert_backbone(save(checkpoint(2)), folder / "model")
    assert thesis.read_text() == "years of work"
    with pytest.raises(ClipBertError, match=r"answers.json: is a file: expected the model folder to write"):
        convert_backbone(folder / "original.pt", folder / "answers.json")
    thesis.unlink()
    run(files, checkpoint(2))
    run(files, checkpoint(2))  # a model is replaced by its like
    with pytest.raises(ClipBertError, match=r"model: is a folder: expected the checkpoint file to write"):
        to_original(folder / "model", folder / "model")


def test_buffers_of_the_original_come_back(files):
    buffers = {
        "transformer.bert.embeddings.position_ids": torch.arange(40)[None],
        "cnn.feature.backbone.stem.conv1.norm.num_batches_tracked": torch.tensor(7),
    }
    run(files, checkpoint(2) | buffers)
    back = to_original(files[0] / "model", files[0] / "back.pt")
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in buffers.items())


def test_a_model_of_few_text_positions(files):
    config = CONFIG | {"max_position_embeddings": 16}
    (files[0] / "base_model.json").write_text(json.dumps(config))
    assert run(files, checkpoint(2, config)).config.max_text_length == 16


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("hostile_was_here"),))


@pytest.mark.parametrize("name", ["original.pt", "R-50.pkl"])
def test_code_in_a_checkpoint_is_never_run(files, monkeypatch, name):
    folder, _ = files
    monkeypatch.chdir(folder)
    path = folder / name
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps({"model": {"stem.conv1.weight": Hostile()}}))
    else:
        torch.save({"cnn.grid_encoder.0.weight": Hostile()}, path)
    with pytest.raises(ClipBertError, match=rf"{name}: cannot be read as weights .* code inside a checkpoint is never"):
        convert_backbone(path, folder / "out")
    assert not (folder / "hostile_was_here").exists()


class Call:
    """A pickle that calls what it names."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "content",
    [
        Call(np.ndarray, (1 << 44,), np.dtype("f8")),  # 128 TiB
        Call(np._core.multiarray.scalar, np.dtype("O"), b""),
        Call(eval, "1"),
    ],
)
def test_a_pickle_of_anything_but_arrays_is_refused(files, content):
    path = files[0] / "weights.bin"  # known by what is in it, not by its name
    path.write_bytes(pickle.dumps({"model": {"stem.conv1.weight": content}}, protocol=2))
    with pytest.raises(ClipBertError, match=r"weights.bin: cannot be read as weights .* code inside"):
        convert_backbone(path, files[0] / "out")


def test_a_legacy_file_of_torch_save_is_read(files):
    path = files[0] / "old.pkl"
    torch.save({"model": resnet()}, path, _use_new_zipfile_serialization=False)
    assert convert_backbone(path, files[0] / "out").channels == [32]


def test_answers_and_configurations_of_another_kind(files):
    folder, _ = files
    with pytest.raises(
        ClipBertError, match=r"--answers is missing: open_qa needs the answer vocabulary .*\(3 answers\)"
    ):
        run(files, checkpoint(3), "open_qa", answers=None)
    (folder / "answers.json").write_text(json.dumps(["red", "blue"]))
    with pytest.raises(ClipBertError, match=r"2 answers, but the classifier of .* has 3 outputs"):
        run(files, checkpoint(3), "open_qa")
    (folder / "answers.json").write_text(json.dumps({"red": 0, "blue": 2}))
    with pytest.raises(ClipBertError, match="not an answer vocabulary: expected a JSON list"):
        run(files, checkpoint(3), "open_qa")
    with pytest.raises(ClipBertError, match=r"gone\.pt: cannot be read"):
        convert(
            folder / "gone.pt", folder / "base_model.json", "retrieval", task_class("retrieval").card, folder / "model"
        )
    (folder / "base_model.json").write_text(json.dumps({"hidden_size": 24}))
    with pytest.raises(ClipBertError, match=r"base_model.json: .*vocab_size.* missing: expected the authors' model"):
        run(files, checkpoint(2))
    (folder / "base_model.json").write_text("{")
    with pytest.raises(ClipBertError, match=r"base_model.json: cannot be read as JSON"):
        run(files, checkpoint(2))


def resnet():
    state = checkpoint(2)
    return {
        n.removeprefix("cnn.feature.backbone."): v for n, v in state.items() if n.startswith("cnn.feature.backbone.")
    }


@pytest.mark.parametrize("form", ["pickle", "grid_feat"])
def test_a_backbone_alone(tmp_path, form):
    names = resnet_shapes(*SMALL_RESNET)
    state = {name: value for name, value in resnet().items() if name in names}
    if form == "pickle":
        path = tmp_path / "R-50.pkl"
        path.write_bytes(pickle.dumps({"model": {n: v.numpy() for n, v in state.items()}, "__author__": "somebody"}))
    else:
        path = tmp_path / "grid_feat_R-50.pth"
        heads = {"roi_heads.res.weight": torch.zeros(2)}
        torch.save(
            {"model": {f"backbone.{name}": value for name, value in state.items()} | heads, "iteration": 3}, path
        )
    convert_backbone(path, tmp_path / "resnet")
    backbone = ResNetBackbone.from_pretrained(tmp_path / "resnet").eval()
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 255
    mean = torch.tensor(json.loads((tmp_path / "resnet" / "preprocessor_config.json").read_text())["image_mean"])
    with torch.no_grad():
        features = backbone(pixels - mean[:, None, None]).feature_maps[-1]
    weights = {f"cnn.feature.backbone.{name}": value.double() for name, value in state.items()}
    weights["cnn.grid_encoder.0.weight"] = torch.zeros(32, 32, 3, 3, dtype=torch.float64)
    weights["cnn.grid_encoder.0.weight"][range(32), range(32), 1, 1] = 1
    bgr = pixels.flip(1).double() - mean.flip(0)[:, None, None]
    assert_close(torch.nn.functional.max_pool2d(features, 2).relu(), grid(weights, bgr))


def test_the_names_of_msra(tmp_path):
    rename = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    state = {}
    for name, value in resnet().items():
        parts = name.split(".")
        leaf = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}.get(
            ".".join(parts[2 + (parts[0] != "stem") :])
        )
        if leaf is None:
            continue
        if parts[0] == "stem":
            state["conv1_w" if leaf == "w" else f"res_conv1_{leaf}"] = value.numpy()
        else:
            state[f"{parts[0]}_{parts[1]}_{rename[parts[2]]}_{leaf}"] = value.numpy()
    state["fc1000_w"] = np.zeros((10, 32), dtype=np.float32)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": state}, protocol=2))
    backbone = convert_backbone(tmp_path / "R-50.pkl", tmp_path / "resnet")
    norm = backbone.embedder.embedder.normalization
    assert torch.equal(norm.weight, resnet()["stem.conv1.norm.weight"])
    assert torch.allclose(norm.running_var + norm.eps, torch.ones(8))
    assert norm.running_mean.abs().sum() == 0


def test_what_is_no_resnet(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ClipBertError, match="no detectron2 ResNet in it"):
        convert_backbone(tmp_path / "other.pth", tmp_path / "out")
    state = resnet()
    del state["res3.0.conv2.norm.bias"]
    torch.save({"model": state}, tmp_path / "R-50.pth")
    with pytest.raises(ClipBertError, match=r"1 missing: res3.0.conv2.norm.bias"):
        convert_backbone(tmp_path / "R-50.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_the_original_has_no_place_for(files, small_config, tmp_path):
    ClipBertForPreTraining(small_config()).save_pretrained(tmp_path / "other_scale")
    with pytest.raises(ClipBertError, match=r"image_std \[58.0, 57.0, 56.0\]: the original's code knows"):
        to_original(tmp_path / "other_scale", tmp_path / "back.pt")
    ClipBertForOpenQA(small_config(image_std=[1.0, 1.0, 1.0], projection_size=8)).save_pretrained(tmp_path / "towers")
    with pytest.raises(ClipBertError, match=r"no place for contrast.logit_scale, .*text_projection"):
        to_original(tmp_path / "towers", tmp_path / "back.pt")
    assert not (tmp_path / "back.pt").exists()
