"""Activation checkpointing and microbatches: less memory for more compute, with the same losses and gradients."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_activations(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`; backward recomputes its activations with the same random numbers."""
    return checkpoint(function, *arguments, use_reentrant=False)


def run_in_microbatches(function: Callable[..., Any], parts: int, rows: Tensor, *others: Tensor | None) -> Any:
    """Return `function(rows, *others)`, computed in `parts` chunks that backward recomputes one at a time.

    Args:
        function: maps rows (m, ...) to a tensor of m rows, or to a tuple of such tensors.
        parts: number of chunks; with fewer rows than that, each row is a chunk.
        rows: (M, ...).
        others: (M, ...) tensors are chunked like the rows; None and tensors of another length go to each chunk whole.
    """
    if parts <= 1 or not torch.is_grad_enabled():
        return function(rows, *others)
    some = rows.chunk(parts)
    cut = [
        value.chunk(parts) if value is not None and len(value) == len(rows) else [value] * len(some) for value in others
    ]
    results = [checkpoint_activations(function, *arguments) for arguments in zip(some, *cut, strict=True)]
    if isinstance(results[0], tuple):
        return tuple(torch.cat(values) for values in zip(*results, strict=True))
    return torch.cat(results)


def run_slices(function: Callable[[slice], Tensor], rows: int, parts: int) -> Tensor:
    """Return the rows of `function(slice)` for slices of `rows` rows, in `parts` parts that backward recomputes.

    A part keeps only what the function returns, here a vector per row, so the memory of a loss over all rows hardly
    grows with their number: gradient caching (GradCache, Gao et al. 2021). The first forward pass makes the vectors,
    the loss their gradients, and backward computes each part again, with the same random numbers, to pass these on.

    Args:
        function: returns (m, ...) for a slice of m rows; tensors it uses besides may need gradients.
    """
    if parts <= 1 or not torch.is_grad_enabled():
        return function(slice(0, rows))
    size = -(-rows // parts)
    slices = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    return torch.cat([checkpoint_activations(function, part) for part in slices])


def has_trainable_batch_norm(module: nn.Module) -> bool:
    """Return whether a batch norm updates its statistics: chunks and a second forward pass would change them."""
    return any(
        part.training and part.track_running_stats
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    )


def set_microbatches(model: nn.Module, parts: int) -> str | None:
    """Run the vision half and the encoder over each batch in `parts` chunks.

    Losses over the whole batch, the contrastive one included, and their gradients stay the same; with dropout the
    chunks draw other masks. Peak activation memory falls by about the factor `parts`, for one more forward pass.

    Args:
        model: any ClipBERT model, also inside DistributedDataParallel.
        parts: number of chunks; 1 turns it off.

    Returns:
        a remark for the log on what does not run in chunks; None where everything does.

    Raises:
        ValueError: `parts` below 1.
    """
    if parts < 1:
        raise ValueError(f"parts is {parts}: expected 1 or more.")
    remark = None
    for encoder in _pretrained_dual_encoders(model):
        encoder.microbatches = parts
    for module in _without_head(model):
        module.microbatches = parts
        if parts > 1 and not module.config.freeze_batch_norm and has_batch_norm(module.vision):
            remark = "The vision half stays in one piece: its batch norms need the statistics of the whole batch."
    return remark


def set_activation_checkpointing(model: nn.Module, on: bool) -> str | None:
    """Keep only the inputs of each encoder layer and backbone stage; backward recomputes the other activations.

    Losses and gradients stay the same. A backbone with trainable batch norms is left out: a second forward pass would
    update their statistics twice.

    Args:
        model: any ClipBERT model, also inside DistributedDataParallel.
        on: whether to checkpoint.

    Returns:
        a remark for the log on what is not checkpointed; None where everything is.
    """
    remark = None
    for encoder in _pretrained_dual_encoders(model):
        _checkpoint_layers(encoder, on)
    for module in _without_head(model):
        live = not module.config.freeze_batch_norm and has_batch_norm(module.vision)
        kept = set(module.vision.modules()) if live else set()
        _checkpoint_layers(module, on, kept)
        module.vision.checkpointing = on and not live
        if on and live:
            remark = "The backbone's activations are kept: its batch norms learn, and must see a batch once."
    return remark


def _checkpoint_layers(module: nn.Module, on: bool, kept: Collection[nn.Module] = ()) -> None:
    """Recompute the activations of the transformer layers of a module except those in `kept`, or stop doing so."""
    for part in module.modules():
        if isinstance(part, GradientCheckpointingLayer):
            part.gradient_checkpointing = on and part not in kept
            part._gradient_checkpointing_func = checkpoint_activations


def _pretrained_dual_encoders(model: nn.Module) -> list[Any]:
    """Return the `PretrainedDualEncoder`s in a model."""
    return [module for module in model.modules() if hasattr(module, "microbatches") and hasattr(module, "text_encoder")]


def _without_head(model: nn.Module) -> list[Any]:
    """Return the `ClipBertModel`s in a model."""
    return [module for module in model.modules() if hasattr(module, "microbatches") and hasattr(module, "vision")]


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether a module has batch norms, trained or not."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
