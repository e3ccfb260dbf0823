"""Layer-wise learning rates of the backbone."""

from typing import Any

import pytest
import torch
from torch import nn

from clipbert.config.training import TrainParams
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig, ClipBertForOpenQA
from clipbert.training.layer_decay import layers_above
from clipbert.training.optim import make_optimizer

BACKBONE = "clipbert.vision.backbone"
SMALL_LITE = {
    "model_type": "efficientnet_lite",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 2],
    "kernel_sizes": [3, 3],
    "strides": [1, 2],
    "expand_ratios": [1, 2],
    "head_size": 16,
}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [2, 1]}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 64,
    "patch_size": 16,
}


def make_model(vision: dict[str, Any]) -> ClipBertForOpenQA:
    torch.manual_seed(0)
    return ClipBertForOpenQA(ClipBertConfig.tiny(answers=["a", "b"], vocab_size=64, image_size=64, vision=vision))


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        (
            SMALL_LITE,
            {
                "stem.convolution.weight": 4,
                "stages.0.layers.0.depthwise.normalization.weight": 3,
                "stages.1.layers.0.expand.convolution.weight": 2,
                "stages.1.layers.1.project.convolution.weight": 1,
                "head.convolution.weight": 0,
            },
        ),
        (
            RESNET,
            {
                "embedder.embedder.convolution.weight": 2,
                "encoder.stages.0.layers.0.layer.0.convolution.weight": 1,
                "encoder.stages.0.layers.1.layer.0.convolution.weight": 1,
                "encoder.stages.1.layers.0.layer.0.convolution.weight": 0,
            },
        ),
        (
            {"model_type": "vit"} | VIT,
            {
                "model.embeddings.patch_embeddings.projection.weight": 3,
                "model.layers.0.layernorm_before.weight": 2,
                "model.layers.1.layernorm_before.weight": 1,
                "model.layernorm.weight": 0,
            },
        ),
        (
            {"model_type": "clip_vision_model"} | VIT,
            {
                "model.embeddings.patch_embedding.weight": 2,
                "model.encoder.layers.0.layer_norm1.weight": 1,
                "model.encoder.layers.1.layer_norm1.weight": 0,
            },
        ),
    ],
)
def test_layers_are_counted_from_the_top(vision: dict[str, Any], expected: dict[str, int]) -> None:
    model = make_model(vision)
    found = layers_above(model)
    assert {f"{BACKBONE}.{name}": count for name, count in expected.items()}.items() <= found.items()
    own = {name for name, _ in model.named_parameters() if name.startswith(f"{BACKBONE}.")}
    assert found.keys() == own
    assert set(found.values()) == set(range(max(found.values()) + 1))


def rates(model: nn.Module, params: TrainParams) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, params).param_groups
    return {names[id(parameter)]: group["peak_lr"] for group in groups for parameter in group["params"]}


def test_each_layer_has_a_part_of_the_rate_above_it() -> None:
    found = rates(make_model(RESNET), TrainParams(lr=0.01, vision_lr=0.008, vision_lr_decay=0.5))
    assert found[f"{BACKBONE}.encoder.stages.1.layers.0.layer.0.convolution.weight"] == pytest.approx(0.008)
    assert found[f"{BACKBONE}.encoder.stages.0.layers.1.layer.1.normalization.bias"] == pytest.approx(0.004)
    assert found[f"{BACKBONE}.embedder.embedder.convolution.weight"] == pytest.approx(0.002)
    assert found["clipbert.vision.projection.weight"] == pytest.approx(0.008)
    assert found["clipbert.embeddings.word_embeddings.weight"] == pytest.approx(0.01)


def test_multipliers_and_late_groups_go_with_it() -> None:
    settings = {"lr": 0.01, "vision_lr": 0.008, "vision_lr_decay": 0.5, "freeze_vision": True, "unfreeze_at": 0.5}
    params = TrainParams(**settings, lr_multipliers={f"{BACKBONE}.embedder": 0.1})  # type: ignore[arg-type]
    model = make_model(RESNET)
    optimizer = make_optimizer(model, params)
    late = {group["name"]: group["peak_lr"] for group in optimizer.param_groups if group["phase"]}
    assert late == {
        f"vision, decayed, 2 layers from the top, phase vision, {BACKBONE}.embedder": pytest.approx(0.0002),
        f"vision, not decayed, 2 layers from the top, phase vision, {BACKBONE}.embedder": pytest.approx(0.0002),
        "vision, decayed, 1 layers from the top, phase vision": pytest.approx(0.004),
        "vision, not decayed, 1 layers from the top, phase vision": pytest.approx(0.004),
        "vision, decayed, phase vision": pytest.approx(0.008),
        "vision, not decayed, phase vision": pytest.approx(0.008),
    }
    assert not any(p.requires_grad for group in optimizer.param_groups if group["phase"] for p in group["params"])
    without = make_optimizer(make_model(RESNET), params.model_copy(update={"unfreeze_at": None}))
    assert not any(group["phase"] for group in without.param_groups)


def test_without_decay_the_groups_are_those_of_before() -> None:
    names = [group["name"] for group in make_optimizer(make_model(RESNET), TrainParams()).param_groups]
    assert sorted(names) == ["rest, decayed", "rest, not decayed", "vision, decayed", "vision, not decayed"]


def test_a_backbone_without_layers_is_refused() -> None:
    model = make_model(RESNET)
    model.clipbert.vision.backbone = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ClipBertError, match=r"train\.vision_lr_decay: Sequential has no numbered layers"):
        make_optimizer(model, TrainParams(vision_lr_decay=0.9))
