"""Optimizer, its parameter groups, frozen parameters, and the check that every trainable parameter has a gradient."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from torch import nn
from torch.optim import AdamW

from clipbert.config.training import TrainParams
from clipbert.errors import ClipBertError
from clipbert.model.pretrained_dual_encoder import PretrainedDualEncoder
from clipbert.model.vision import GridEncoder
from clipbert.training.layer_decay import layers_above
from clipbert.training.phases import TASK, VISION

DUAL_ENCODER_PREFIXES = ("contrast.", "clipbert.vision.backbone.")
OPTIONAL_PARTS = ("contrast",)  # that some tasks' models lack; `lr_multipliers` are the same for all tasks


class _Group(NamedTuple):
    """What the parameters of a group have in common."""

    part: str
    decayed: bool
    prefix: str  # in `lr_multipliers`
    above: int  # layers above it in the backbone; 0 without `vision_lr_decay`
    phase: str  # in which its training begins, of `training.phases`; empty: at the start

    @property
    def name(self) -> str:
        names = [self.part, "decayed" if self.decayed else "not decayed"]
        names += [f"{self.above} layers from the top"] if self.above else []
        names += [f"phase {self.phase}"] if self.phase else []
        return ", ".join([*names, self.prefix] if self.prefix else names)


def make_optimizer(model: nn.Module, params: TrainParams, late: Collection[str] = ()) -> AdamW:
    """Create AdamW with parameter groups of equal learning rate and weight decay, as in the authors' code.

    The backbone has the learning rate `vision_lr`, both halves of a pretrained dual encoder `dual_encoder_lr`, all else
    `lr`, each times the multiplier of the longest matching prefix in `lr_multipliers`. In the backbone, each layer has
    `vision_lr_decay` times the rate of the layer above it. Biases, norms and scalars have no weight decay. With
    `freeze_vision` the backbone is frozen first; its parameters are in the optimizer only if `unfreeze_at` is set, in
    groups of their own. Each group has a `name`, its `peak_lr`, and the `phase` in which its training begins.

    The step is fused: it reads `optimizer.found_inf` on the device, and where that is 1 it leaves weights, moments and
    step counters unchanged.

    Args:
        model: on its device, before DistributedDataParallel or torch.compile wrap it, because they change the names.
        late: names of frozen parameters that the task trains later (`Objective.late_parameters`).

    Raises:
        ClipBertError: a prefix in `lr_multipliers` matches no parameter, the backbone has no layers for
            `vision_lr_decay`, or nothing of it is trained after `unfreeze_at`.
    """
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if params.freeze_vision:
        freeze_vision(model)
    after = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    unfrozen = before - after if params.unfreeze_at is not None else set()
    if params.unfreeze_at is not None and not unfrozen:
        raise ClipBertError(
            f"train.unfreeze_at is {params.unfreeze_at}, but another parameter keeps the backbone frozen "
            "(tasks.retrieval.freeze_dual_encoder). Set that to false, or train.unfreeze_at to null."
        )
    _check_prefixes(params.lr_multipliers, [name for name, _ in model.named_parameters()])
    rates = {"vision": params.vision_lr or params.lr, "dual encoder": params.dual_encoder_lr, "rest": params.lr}
    above = layers_above(model) if params.vision_lr_decay < 1 else {}
    groups: dict[_Group, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        phase = VISION if name in unfrozen else TASK if name in late else ""
        if name in after or phase:
            prefix = _longest_prefix(name, params.lr_multipliers)
            group = _Group(_part_of(name, model), parameter.ndim > 1, prefix, above.get(name, 0), phase)
            groups.setdefault(group, []).append(parameter)
    param_groups = []
    for group, parameters in groups.items():
        multiplier = params.lr_multipliers.get(group.prefix, 1.0) * params.vision_lr_decay**group.above
        rate = rates[group.part] * multiplier
        param_groups.append(
            {
                "params": parameters,
                "name": group.name,
                "lr": rate,
                "peak_lr": rate,
                "phase": group.phase,
                "weight_decay": params.weight_decay if group.decayed else 0.0,
            }
        )
    return AdamW(param_groups, betas=(0.9, 0.98), fused=True)


def set_learning_rate(optimizer: AdamW, factors: Mapping[str, float]) -> None:
    """Set each group's learning rate to its peak times the factor of its phase; 0 before the phase has begun.

    Args:
        factors: by phase, "" for what is trained from the start.
    """
    for group in optimizer.param_groups:
        group["lr"] = factors.get(group["phase"], 0.0) * group["peak_lr"]


def freeze_vision(model: nn.Module) -> None:
    """Freeze the weights of the backbone and the statistics of its batch norms, also after `model.train()`.

    The projection after the backbone (section 3.1 of the paper), which pretrained backbones lack, stays trainable.
    """
    for module in model.modules():
        if isinstance(module, GridEncoder):
            module.freeze_backbone()


def unfreeze_vision(model: nn.Module) -> None:
    """Train the backbone that `freeze_vision` froze."""
    for module in model.modules():
        if isinstance(module, GridEncoder):
            module.unfreeze_backbone()


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
        if not any(_has_prefix(name, prefix) for name in (*names, *OPTIONAL_PARTS)):
            parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
            nearest = difflib.get_close_matches(prefix, sorted(parts), n=3)
            hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"they start with {_starts(names)}."
            raise ClipBertError(
                f"train.lr_multipliers: no parameter's name starts with {prefix!r}: expected whole parts of a name, as "
                f"in clipbert.embeddings; {hint}"
            )


def _starts(names: list[str]) -> str:
    return ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))
