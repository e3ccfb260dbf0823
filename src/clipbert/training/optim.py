"""Optimizer, its parameter groups, frozen parameters, and the check that every trainable parameter has a gradient."""

import difflib
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW

from clipbert.config.training import TrainParams
from clipbert.errors import ClipBertError
from clipbert.model.pretrained_dual_encoder import PretrainedDualEncoder
from clipbert.model.vision import GridEncoder

DUAL_ENCODER_PREFIXES = ("contrast.", "clipbert.vision.backbone.")


def make_optimizer(model: nn.Module, params: TrainParams) -> AdamW:
    """Create AdamW with parameter groups of equal learning rate and weight decay, as in the authors' code.

    The backbone has the learning rate `vision_lr`, both halves of a pretrained dual encoder `dual_encoder_lr`, all else
    `lr`, each times the multiplier of the longest matching
    prefix in `lr_multipliers`. Biases, norms and scalars have no weight decay. With `freeze_vision` the backbone is
    frozen first. Each group has a `name` and its `peak_lr`.

    The step is fused: it reads `optimizer.found_inf` on the device, and where that is 1 it leaves weights, moments and
    step counters unchanged.

    Args:
        model: on its device, before DistributedDataParallel or torch.compile wrap it, because they change the names.

    Raises:
        ClipBertError: a prefix in `lr_multipliers` matches no parameter.
    """
    if params.freeze_vision:
        freeze_vision(model)
    _check_prefixes(params.lr_multipliers, [name for name, _ in model.named_parameters()])
    rates = {"vision": params.vision_lr or params.lr, "dual encoder": params.dual_encoder_lr, "rest": params.lr}
    groups: dict[tuple[str, bool, str], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (_part_of(name, model), parameter.ndim > 1, _longest_prefix(name, params.lr_multipliers))
            groups.setdefault(key, []).append(parameter)
    param_groups = []
    for (part, decayed, prefix), parameters in groups.items():
        rate = rates[part] * params.lr_multipliers.get(prefix, 1.0)
        name = f"{part}, {'decayed' if decayed else 'not decayed'}"
        param_groups.append(
            {
                "params": parameters,
                "name": f"{name}, {prefix}" if prefix else name,
                "lr": rate,
                "peak_lr": rate,
                "weight_decay": params.weight_decay if decayed else 0.0,
            }
        )
    return AdamW(param_groups, betas=(0.9, 0.98), fused=True)


def set_learning_rate(optimizer: AdamW, factor: float) -> None:
    """Set each group's learning rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]


def freeze_vision(model: nn.Module) -> None:
    """Freeze the weights of the backbone and the statistics of its batch norms, also after `model.train()`.

    The projection after the backbone (section 3.1 of the paper), which pretrained backbones lack, stays trainable.
    """
    for module in model.modules():
        if isinstance(module, GridEncoder):
            module.freeze_backbone()


def check_gradients(model: nn.Module) -> None:
    """Check after the first backward pass that every trainable parameter has a gradient.

    Raises:
        ClipBertError: the loss does not depend on some of them; names them.
    """
    missing = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    if missing:
        raise ClipBertError(
            f"{type(model).__name__}: {len(missing)} parameters are trainable, but the loss gives them no gradient: "
            f"{', '.join(missing)}. They would keep their initial values. Use them in the loss, remove them from the "
            "model, or call requires_grad_(False) on them."
        )


def _part_of(name: str, model: nn.Module) -> str:
    """Return the part of the model that a parameter belongs to: "dual encoder", "vision" or "rest"."""
    if isinstance(getattr(model, "contrast", None), PretrainedDualEncoder) and name.startswith(DUAL_ENCODER_PREFIXES):
        return "dual encoder"
    return "vision" if ".vision." in name else "rest"


def _longest_prefix(name: str, prefixes: Iterable[str]) -> str:
    """Return the longest of `prefixes` that matches `name`; empty without a match."""
    return max((prefix for prefix in prefixes if _has_prefix(name, prefix)), key=len, default="")


def _has_prefix(name: str, prefix: str) -> bool:
    """Return whether the leading parts of `name` are `prefix`; `layer.1` does not match `layer.10.weight`."""
    return f"{name}.".startswith(f"{prefix}.")


def _check_prefixes(prefixes: Iterable[str], names: list[str]) -> None:
    for prefix in prefixes:
        if not any(_has_prefix(name, prefix) for name in names):
            parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
            nearest = difflib.get_close_matches(prefix, sorted(parts), n=3)
            hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"they start with {_starts(names)}."
            raise ClipBertError(
                f"train.lr_multipliers: no parameter's name starts with {prefix!r}: expected whole parts of a name, as "
                f"in clipbert.embeddings; {hint}"
            )


def _starts(names: list[str]) -> str:
    return ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))
