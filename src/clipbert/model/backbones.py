"""Training forward pass of a ResNet with frozen batch norm: the same features and gradients in fewer operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetBackbone
from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

from clipbert.model.activation_checkpointing import checkpoint_activations


def can_fold_batch_norm(backbone: nn.Module) -> bool:
    """Return whether `forward_folded` applies: a ResNet with all batch norms in evaluation mode."""
    return isinstance(backbone, ResNetBackbone) and not any(
        module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)
    )


def forward_folded(backbone: Any, pixels: Tensor, checkpointing: bool = False) -> Tensor:
    """Return the last feature map (M, channels, h, w) of normalized frames (M, 3, H, W).

    A batch norm in evaluation mode scales and shifts, so it is folded into the convolution before it. Where a stage
    begins with a 1x1 convolution of stride 2 (the ResNet of the paper), three of four cells of the previous stage are
    never read; its last block does not compute them.

    Args:
        backbone: a `ResNetBackbone` for which `can_fold_batch_norm` holds.
        pixels: (M, 3, H, W).
        checkpointing: whether backward recomputes the activations of each stage.
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
    """Return the forward pass of a stage: input already strided by `thinned`, output strided by `leaving`."""

    def run(x: Tensor) -> Tensor:
        for number, block in enumerate(blocks):
            last = number == len(blocks) - 1
            x = _block(block, x, entered=number == 0 and thinned > 1, leaving=leaving if last else 1)
        return x

    return run


def _block(block: Any, x: Tensor, entered: bool, leaving: int) -> Tensor:
    """Return the output of a residual block.

    Args:
        block: of transformers' ResNet.
        x: (M, channels, h, w).
        entered: whether the block's own stride was already applied to `x`.
        leaving: compute only every `leaving`-th row and column of the output (bottleneck blocks only).
    """
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
    """Return the stride with which a block subsamples its input; 1 where it reads every cell."""
    entry, shortcut = block.layer[0].convolution, block.shortcut
    if entry.kernel_size != (1, 1) or isinstance(shortcut, nn.Identity) or shortcut.convolution.stride != entry.stride:
        return 1
    return int(entry.stride[0])


def _convolve(layer: Any, x: Tensor, stride: int | None = None) -> Tensor:
    """Return a convolution with its batch norm folded in, and the activation where the layer has one."""
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
    """Return a convolution weight in the dtype and memory format of the computation, made in one copy."""
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return weight.to(dtype, memory_format=torch.channels_last)


def _activate(activation: nn.Module, y: Tensor) -> Tensor:
    """Apply an activation, ReLU in place: the backward pass of the operation before it does not need `y`."""
    return y.relu_() if isinstance(activation, nn.ReLU) else activation(y)
