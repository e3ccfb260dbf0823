"""Parameter groups, the fused step that is skipped on the device, frozen parameters, and missing gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import build_from_params
from torch import nn
from torch.optim import AdamW

from clipbert.config.schema import Params
from clipbert.config.tasks import task_names
from clipbert.config.training import TrainParams
from clipbert.data.manifest import read_texts
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertConfig, ClipBertForCaptioning, ClipBertForOpenQA
from clipbert.tasks import make_task
from clipbert.training.data import DistributedBatchSampler, TrainingSamples, training_batches
from clipbert.training.optim import check_gradients, make_optimizer, set_learning_rate


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clipbert = nn.ModuleDict(
            {"vision": nn.Conv2d(3, 4, 3), "encoder": nn.ModuleList(nn.Linear(4, 4) for _ in range(11))}
        )
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)


def tiny() -> ClipBertForOpenQA:
    torch.manual_seed(0)
    return ClipBertForOpenQA(
        ClipBertConfig.tiny(answers=["a", "b"], vocab_size=64, image_size=64, projection_size=None)
    ).train()


def groups(optimizer: AdamW, model: nn.Module) -> dict[str, dict[str, Any]]:
    """The group of each parameter, by the parameter's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def step(model: ClipBertForOpenQA, optimizer: AdamW) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 1, 1, 3, 64, 64), dtype=torch.uint8, generator=generator)
    ids = torch.randint(5, 64, (2, 6), generator=generator)
    optimizer.zero_grad(set_to_none=True)
    loss = model(pixel_values=pixels, input_ids=ids, labels=torch.tensor([0, 1])).loss
    assert loss is not None
    loss.backward()
    optimizer.step()


def test_biases_and_norms_are_not_decayed_and_vision_has_its_own_rate() -> None:
    model = Small()
    optimizer = make_optimizer(model, TrainParams(lr=0.01, vision_lr=0.001, weight_decay=0.1))
    of = groups(optimizer, model)
    assert {name: (group["name"], group["weight_decay"], group["peak_lr"]) for name, group in of.items()}.items() >= {
        "clipbert.vision.weight": ("vision, decayed", 0.1, 0.001),
        "clipbert.vision.bias": ("vision, not decayed", 0.0, 0.001),
        "clipbert.encoder.0.weight": ("rest, decayed", 0.1, 0.01),
        "norm.weight": ("rest, not decayed", 0.0, 0.01),
    }.items()
    assert "frozen" not in of
    assert len(optimizer.param_groups) == 4


def test_a_real_model_has_its_batch_norms_embeddings_and_temperature_where_they_belong() -> None:
    model = ClipBertForOpenQA(ClipBertConfig.tiny(answers=["a", "b"], projection_size=8))
    of = {name: group["name"] for name, group in groups(make_optimizer(model, TrainParams()), model).items()}
    assert of.keys() == {name for name, _ in model.named_parameters()}
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)]
    assert len(norms) > 10
    for norm in norms:
        side = "vision" if ".vision." in norm else "rest"
        assert of[f"{norm}.weight"] == of[f"{norm}.bias"] == f"{side}, not decayed"
    assert of["contrast.logit_scale"] == "rest, not decayed"
    assert of["clipbert.vision.projection.weight"] == "vision, decayed"
    assert of["clipbert.visual_embeddings.row_position_embeddings.weight"] == "rest, decayed"


def test_the_longest_prefix_multiplies_the_rate_and_ends_at_a_dot() -> None:
    model = Small()
    multipliers = {"clipbert": 0.5, "clipbert.encoder.1": 0.1, "clipbert.vision.weight": 2.0}
    optimizer = make_optimizer(model, TrainParams(lr=0.01, vision_lr=0.001, lr_multipliers=multipliers))
    rates = {name: group["peak_lr"] for name, group in groups(optimizer, model).items()}
    assert rates["clipbert.encoder.0.weight"] == pytest.approx(0.005)
    assert rates["clipbert.encoder.1.weight"] == rates["clipbert.encoder.1.bias"] == pytest.approx(0.001)
    assert rates["clipbert.encoder.10.weight"] == pytest.approx(0.005)
    assert rates["clipbert.vision.weight"] == pytest.approx(0.002)
    assert rates["clipbert.vision.bias"] == pytest.approx(0.0005)
    assert rates["norm.weight"] == 0.01
    assert "rest, decayed, clipbert.encoder.1" in {group["name"] for group in optimizer.param_groups}


def test_a_multiplier_of_a_part_that_only_other_tasks_have_is_no_error() -> None:
    model = Small()
    optimizer = make_optimizer(model, TrainParams(lr=0.01, lr_multipliers={"contrast": 10.0}))
    assert groups(optimizer, model)["norm.weight"]["peak_lr"] == 0.01
    with pytest.raises(ClipBertError, match=r"no parameter's name starts with 'contrasts'"):
        make_optimizer(model, TrainParams(lr_multipliers={"contrasts": 10.0}))


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("clipbert.embedings", "did you mean clipbert.embeddings"),
        ("clipbert.enc", "did you mean clipbert.encoder"),
        ("zzz", "they start with classifier.0, classifier.2, clipbert.embeddings, clipbert.encoder"),
    ],
)
def test_a_prefix_of_no_parameter_is_an_error_that_says_the_nearest(prefix: str, hint: str) -> None:
    params = TrainParams(lr_multipliers={"classifier": 2.0, prefix: 0.1})
    with pytest.raises(ClipBertError, match=r"train\.lr_multipliers: no parameter's name starts with") as error:
        make_optimizer(tiny(), params)
    assert repr(prefix) in str(error.value)
    assert hint in str(error.value)


def test_the_factor_is_of_each_groups_peak() -> None:
    optimizer = make_optimizer(Small(), TrainParams(lr=0.5, vision_lr=0.1))
    set_learning_rate(optimizer, {"": 0.25})
    assert {(group["peak_lr"], group["lr"]) for group in optimizer.param_groups} == {(0.5, 0.125), (0.1, 0.025)}


def test_a_step_is_left_out_on_the_device_where_found_inf_is_one() -> None:
    model = tiny()
    optimizer = make_optimizer(model, TrainParams())
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    step(model, optimizer)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moments = [{key: value.clone() for key, value in state.items()} for state in optimizer.state.values()]
    assert {float(state["step"]) for state in moments} == {1.0}

    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.fill_(float("nan"))
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    for state, kept in zip(optimizer.state.values(), moments, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in state.items())

    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    step(model, optimizer)
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}


def test_a_frozen_backbone_keeps_weights_and_statistics_while_the_rest_learns() -> None:
    model = tiny()
    optimizer = make_optimizer(model, TrainParams(freeze_vision=True))
    model.eval()
    model.train()  # what the loop says after each validation
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimizer)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(".vision.backbone." in name for name in changed)
    assert any("running_mean" in name for name in before)
    assert {"clipbert.vision.projection.weight", "clipbert.embeddings.word_embeddings.weight"} <= changed
    assert not any(".vision.backbone." in name for name in groups(optimizer, model))
    check_gradients(model)
    assert model.clipbert.encoder.training


def test_without_it_the_backbone_and_its_statistics_move() -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items() if ".vision.backbone." in name}
    step(model, make_optimizer(model, TrainParams()))
    after = model.state_dict()
    assert all(not torch.equal(after[name], value) for name, value in before.items())


def test_what_learns_without_a_gradient_is_named_and_what_is_frozen_is_not() -> None:
    model = Small()
    encoder = model.clipbert["encoder"]
    assert isinstance(encoder, nn.ModuleList)
    model.norm(sum(layer(torch.ones(2, 4)) for layer in encoder)).sum().backward()
    with pytest.raises(ClipBertError) as error:
        check_gradients(model)
    assert str(error.value).startswith(
        "Small: 2 parameters are trainable, but the loss gives them no gradient: "
        "clipbert.vision.weight, clipbert.vision.bias. They would keep"
    )


@pytest.mark.parametrize("contrastive", [True, False])
@pytest.mark.parametrize("name", task_names())
def test_in_every_task_all_that_learns_gets_a_gradient(tiny_project: Path, name: str, contrastive: bool) -> None:
    weight = "caption_weight" if name in ("open_qa", "multiple_choice", "image_qa") else "contrastive_weight"
    params = Params.model_validate(
        {
            "tasks": {name: {weight: float(contrastive)}},
            "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48},
        }
    )
    task = make_task(name, params.tasks)
    examples = task.examples.read(read_texts(tiny_project / "artifacts" / "manifest"), "train")
    model, processor = build_from_params(task, examples, params)
    samples = TrainingSamples(FrameCache(tiny_project / "artifacts" / "frames"), examples, task, model.config, 0)
    batches = training_batches(samples, DistributedBatchSampler(len(examples), 8, 1, 0), processor, 0, pin_memory=False)
    loss, _ = task.objective.loss(model.train(), next(iter(batches)))
    loss.backward()
    check_gradients(model)
    assert (getattr(model, "contrast", None) is not None) == contrastive


def test_the_pooler_that_captioning_has_no_use_for_is_saved_and_does_not_learn() -> None:
    model = ClipBertForCaptioning(ClipBertConfig.tiny())
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        "clipbert.pooler.dense.weight",
        "clipbert.pooler.dense.bias",
    }
    assert "clipbert.pooler.dense.weight" in model.state_dict()
