"""transformers' ResNet with frozen batch norm as it trains: the same features and gradients by fewer operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetBackbone
from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

from clipbert.model.activation_checkpointing import checkpoint_activations


def can_fold_batch_norm(backbone: nn.Module) -> bool:
    """Whether `forward_folded` computes what the backbone does: a ResNet whose batch norms are all at rest."""
    return isinstance(backbone, ResNetBackbone) and not any(
        module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)
    )


def forward_folded(backbone: Any, pixels: Tensor, checkpointing: bool = False) -> Tensor:
    """The last feature map (M, channels, h, w) of normalised frames (M, 3, H, W).

    A batch norm at rest scales and shifts: it is folded into the convolution before it. Where a stage begins with a
    1x1 convolution of stride 2 (the paper's ResNet), three of four cells of the stage before it are read by nothing;
    its last block does not compute them.

    `checkpointing`: the activations of each stage are computed again in backward instead of kept.
    """
    x = backbone.embedder.pooler(_convolve(backbone.embedder.embedder, pixels))
    stages = [list(stage.layers) for stage in backbone.encoder.stages]
    thinned = 1
    for blocks, following in zip(stages, [*stages[1:], []], strict=True):
        leaving = _stride_of_entry(following[0]) if following and isinstance(blocks[-1], ResNetBottleNeckLayer) else 1
        run = _stage(blocks, thinned, leaving)
        x = checkpoint_activations(run, x) if checkpointing else run(x)
        thinned = leaving
    return x


def _stage(blocks: list[Any], thinned: int, leaving: int) -> Callable[[Tensor], Tensor]:
    """The blocks of a stage one after another; its input is thinned already, its output is to be."""

    def run(x: Tensor) -> Tensor:
        for number, block in enumerate(blocks):
            last = number == len(blocks) - 1
            x = _block(block, x, entered=number == 0 and thinned > 1, leaving=leaving if last else 1)
        return x

    return run


def _block(block: Any, x: Tensor, entered: bool, leaving: int) -> Tensor:
    """A residual block; `entered`: its stride has been taken already; `leaving`: only each so-manieth row and column
    of the output is wanted, in a bottleneck block."""
    shortcut = block.shortcut
    if isinstance(shortcut, nn.Identity):
        residual = x[:, :, ::leaving, ::leaving] if leaving > 1 else x
    else:
        taken = 1 if entered else shortcut.convolution.stride[0]
        residual = _convolve(shortcut, x, stride=taken * leaving)
    y = x
    for number, layer in enumerate(block.layer):
        stride = 1 if entered and number == 0 else layer.convolution.stride[0]
        # of the three convolutions the second has a kernel of 3 and the third of 1
        y = _convolve(layer, y, stride=stride * (leaving if number == 1 else 1))
    return _activate(block.activation, y.add_(residual))


def _stride_of_entry(block: Any) -> int:
    """By how much a block thins its input before it reads anything else; 1: it reads all of it."""
    entry, shortcut = block.layer[0].convolution, block.shortcut
    if entry.kernel_size != (1, 1) or isinstance(shortcut, nn.Identity) or shortcut.convolution.stride != entry.stride:
        return 1
    return int(entry.stride[0])


def _convolve(layer: Any, x: Tensor, stride: int | None = None) -> Tensor:
    """A convolution with its batch norm folded in, and the activation where the layer has one."""
    convolution, norm = layer.convolution, layer.normalization
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = convolution.weight * scale[:, None, None, None]
    y = functional.conv2d(
        x,
        compute_weight(weight),
        norm.bias - norm.running_mean * scale,
        stride=convolution.stride if stride is None else stride,
        padding=convolution.padding,
    )
    return _activate(layer.activation, y) if hasattr(layer, "activation") else y


def compute_weight(weight: Tensor) -> Tensor:
    """A convolution's weight in the type and the memory format that it is multiplied in, made in one copy."""
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return weight.to(dtype, memory_format=torch.channels_last)


def _activate(activation: nn.Module, y: Tensor) -> Tensor:
    """In place where it is ReLU: what made `y` has no need of it in backward."""
    return y.relu_() if isinstance(activation, nn.ReLU) else activation(y)
