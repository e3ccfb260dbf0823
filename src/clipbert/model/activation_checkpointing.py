"""Less memory for activations at the cost of computing them again in backward; losses and gradients stay the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_activations(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """`function(*arguments)`, its activations not kept but computed again in backward with the same random numbers."""
    result: Tensor = checkpoint(function, *arguments, use_reentrant=False)
    return result


def run_in_microbatches(function: Callable[..., Tensor], parts: int, rows: Tensor, *beside: Tensor | None) -> Tensor:
    """`function(rows, *beside)` over the rows in `parts` parts of equal size, each recomputed in backward.

    Args:
        rows: (M, ...); with fewer rows than `parts`, each is a part.
        beside: (M, ...), cut as the rows are; or of another first size, or None: given whole to each part.
    """
    if parts <= 1 or not torch.is_grad_enabled():
        return function(rows, *beside)
    some = rows.chunk(parts)
    cut = [
        value.chunk(parts) if value is not None and len(value) == len(rows) else [value] * len(some) for value in beside
    ]
    return torch.cat([checkpoint_activations(function, *arguments) for arguments in zip(some, *cut, strict=True)])


def has_trainable_batch_norm(module: nn.Module) -> bool:
    """Whether a part of a batch would have other statistics than the batch, and a second forward move them again."""
    return any(
        part.training and part.track_running_stats
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    )


def set_microbatches(model: nn.Module, parts: int) -> str | None:
    """Run the vision half over a batch's frames, and the encoder over its rows, in `parts` parts of each batch.

    Losses over the whole batch, the contrastive one too, and their gradients stay as they are; with dropout the parts
    draw other masks. Peak memory for activations falls by about `parts`, for one more forward. 1 is the plain path.

    Args:
        model: any ClipBERT, also inside DistributedDataParallel.

    Returns:
        what does not run in parts, for the log; None where everything does.

    Raises:
        ValueError: `parts` below 1.
    """
    if parts < 1:
        raise ValueError(f"parts is {parts}: expected 1 or more.")
    remark = None
    for module in _without_head(model):
        module.microbatches = parts
        if parts > 1 and not module.config.freeze_batch_norm and _has_batch_norm(module.vision):
            remark = "The vision half stays in one piece: its batch norms need the statistics of the whole batch."
    return remark


def set_activation_checkpointing(model: nn.Module, on: bool) -> str | None:
    """Keep only what enters each layer of the encoder and each stage of the backbone; backward computes the rest again.

    Losses and gradients stay as they are. A backbone whose batch norms learn is left as it is: a second forward would
    move their statistics twice.

    Returns:
        what is not recomputed, for the log; None where everything is.
    """
    remark = None
    for module in _without_head(model):
        live = not module.config.freeze_batch_norm and _has_batch_norm(module.vision)
        kept = set(module.vision.modules()) if live else set()
        for part in module.modules():
            if isinstance(part, GradientCheckpointingLayer):
                part.gradient_checkpointing = on and part not in kept
                part._gradient_checkpointing_func = checkpoint_activations
        module.vision.checkpointing = on and not live
        if on and live:
            remark = "The backbone's activations are kept: its batch norms learn, and must see a batch once."
    return remark


def _without_head(model: nn.Module) -> list[Any]:
    """The `ClipBertModel` in a model."""
    return [module for module in model.modules() if hasattr(module, "microbatches")]


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
