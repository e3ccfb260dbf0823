"""Layers of a backbone, for learning rates that decay from its top to its bottom (`train.vision_lr_decay`)."""

import re

from torch import nn

from clipbert.errors import ClipBertError
from clipbert.model.efficientnet_lite import EfficientNetLiteBackbone
from clipbert.model.vision import GridEncoder

# transformers numbers the stages of a ResNet as `encoder.stages.N`, the layers of a ViT as `layers.N` or `layer.N`.
NUMBERED = re.compile(r"(?:^|\.)(?:stages|layers|layer|blocks)\.(\d+)(?=\.)")


def layers_above(model: nn.Module) -> dict[str, int]:
    """Return for each parameter of the backbone, by its name in `model`, how many layers are above its own.

    Layers are the blocks of an EfficientNet-Lite, the stages of a ResNet and the layers of a vision transformer. The
    stem or the embeddings are one more layer at the bottom; what follows the numbered layers (the last convolution, the
    final norm) is one at the top. Layer-wise decay is that of ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022),
    where the top is the task's head.

    Raises:
        ClipBertError: the backbone's parameters have no numbered layers.
    """
    found: dict[str, int] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, GridEncoder):
            above = _layers_above(module.backbone)
            found |= {f"{prefix}.backbone.{name}": count for name, count in above.items()}
    return found


def _layers_above(backbone: nn.Module) -> dict[str, int]:
    layers: dict[tuple[str, ...], int] = {}
    of: dict[str, int] = {}
    outside = ("bottom",)
    for name, _ in backbone.named_parameters():
        numbers = tuple(NUMBERED.findall(name))
        if not isinstance(backbone, EfficientNetLiteBackbone):
            numbers = numbers[:1]
        outside = ("top",) if numbers else outside
        of[name] = layers.setdefault(numbers or outside, len(layers))
    if len(layers) < 2:
        raise ClipBertError(
            f"train.vision_lr_decay: {type(backbone).__name__} has no numbered layers to order the rates by. "
            "Set it to 1.0, and use train.lr_multipliers for parts of this backbone."
        )
    return {name: len(layers) - 1 - layer for name, layer in of.items()}
