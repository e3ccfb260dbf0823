import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
)

from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file
from clipbert.files.checksums import CHECKSUMS
from clipbert.model import (
    ClipBertConfig,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
    ClipBertModel,
    ClipBertProcessor,
    load,
)
from clipbert.model.weights.checksums import sign_folder

CLASSES = [ClipBertModel, ClipBertForRetrieval, ClipBertForOpenQA, ClipBertForMultipleChoice, ClipBertForPreTraining]


@pytest.fixture
def saved(small_config, tmp_path):
    ClipBertForRetrieval(small_config(projection_size=8)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", CLASSES)
def test_round_trip_is_bit_equal(small_config, randomized, inputs, tmp_path, kind):
    model = randomized(kind(small_config(projection_size=8)))
    arguments = inputs.arguments()
    if kind is ClipBertForMultipleChoice:
        arguments |= {"pixel_values": inputs.pixel_values[:1], "texts_per_video": torch.tensor([3])}
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checksums.sha256", "config.json", "model.safetensors"]
    again = load(tmp_path)
    assert type(again) is kind
    assert not again.training
    assert [n for n, p in again.named_parameters() if not p.requires_grad] == [
        n for n, p in model.named_parameters() if not p.requires_grad
    ]
    weights = again.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    expected, found = model(**arguments), again(**arguments)
    for name in expected:  # equal weights at other addresses may add up in another order
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_head_takes_over_the_body_of_another(small_config, tmp_path):
    retrieval = ClipBertForRetrieval(small_config())
    retrieval.save_pretrained(tmp_path)
    qa = ClipBertForOpenQA.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert torch.equal(qa.clipbert.vision.projection.weight, retrieval.clipbert.vision.projection.weight)


def test_auto_classes(saved, small_config, tmp_path):
    assert type(AutoConfig.from_pretrained(saved)) is ClipBertConfig
    assert type(AutoModel.from_pretrained(saved)) is ClipBertModel
    ClipBertProcessor(ClipBertProcessor.train_tokenizer(["a red circle"] * 2)).save_pretrained(saved)
    assert type(AutoProcessor.from_pretrained(saved)) is ClipBertProcessor
    config = small_config()
    assert type(AutoModelForMultipleChoice.from_config(config)) is ClipBertForMultipleChoice
    assert type(AutoModelForPreTraining.from_config(config)) is ClipBertForPreTraining
    assert type(AutoModelForVisualQuestionAnswering.from_config(config)) is ClipBertForOpenQA


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ClipBertError, match=r"config\.json: not found: no model in this folder\. Train or convert"):
        load(tmp_path / "nothing")


def test_a_folder_without_weights(saved):
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ClipBertError, match=r"model\.safetensors: not found: the model folder is incomplete"):
        load(saved)


def test_a_configuration_that_is_no_json(saved):
    (saved / CHECKSUMS).unlink()
    (saved / "config.json").write_text('{"model_type": ')
    with pytest.raises(ClipBertError, match=r"config\.json: not a model configuration"):
        load(saved)


def test_a_configuration_out_of_range(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"score_aggregation": "sum"}))
    sign_folder(saved)
    with pytest.raises(ClipBertError, match="score_aggregation is 'sum': expected one of"):
        load(saved)


def test_another_kind_of_model(saved):
    (saved / CHECKSUMS).unlink()
    (saved / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ClipBertError, match=r"model_type is 'bert'.*expected model_type 'clipbert'"):
        load(saved)


def test_a_byte_changed_inside_a_tensor(saved):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ClipBertError, match=r"model\.safetensors: damaged or edited since it was written"):
        load(saved)
    assert sign_folder(saved) == ["model.safetensors: changed"]
    load(saved)


def test_weights_that_the_checksums_name_and_nobody_has(saved):
    (saved / "model-00001-of-00002.safetensors").write_bytes(b"x")
    sign_folder(saved)
    (saved / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ClipBertError, match=r"model-00001-of-00002\.safetensors: not found, but its checksum"):
        load(saved)


def test_a_folder_of_an_earlier_version_has_its_weights_checked(saved):
    (saved / CHECKSUMS).unlink()
    digest = sha256_file(saved / "model.safetensors")
    (saved / "weights.sha256").write_text(f"{digest}  model.safetensors\n")
    load(saved)
    (saved / "weights.sha256").write_text(f"{'0' * 64}  model.safetensors\n")
    with pytest.raises(ClipBertError, match=r"model\.safetensors: damaged or edited"):
        load(saved)


def test_cut_off_weights(saved):
    (saved / CHECKSUMS).unlink()
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ClipBertError, match="the model cannot be read"):
        load(saved)


@pytest.mark.parametrize("problem", ["missing", "unexpected", "mismatched"])
def test_weights_of_another_model(saved, problem):
    path = saved / "model.safetensors"
    (saved / CHECKSUMS).unlink()
    weights = load_file(path)
    if problem == "missing":
        del weights["classifier.0.weight"]
    elif problem == "unexpected":
        weights["classifier.9.weight"] = torch.zeros(2)
    else:
        weights["classifier.0.weight"] = torch.zeros(2, 2)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ClipBertError, match=rf"1 weights are {problem} for ClipBertForRetrieval: classifier\.\d\.wei"):
        load(saved)


def test_loading_is_quiet(saved, capfd):
    load(saved)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.slow
def test_the_model_imports_without_servers_and_decoders():
    code = "import sys, clipbert.model; print(*(m for m in sys.modules if '.' not in m))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mlflow", "prefect", "dvc", "decord", "av", "great_expectations"} & set(found)
