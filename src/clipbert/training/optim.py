"""AdamW and its parameter groups, what learns and what is frozen, and the check that all that learns is used."""

import difflib
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW

from clipbert.config.training import TrainParams
from clipbert.errors import ClipBertError
from clipbert.model.vision import GridEncoder


def make_optimizer(model: nn.Module, params: TrainParams) -> AdamW:
    """AdamW over groups of one learning rate and one weight decay each, as in the authors' code.

    Vision learns at `vision_lr`, the rest at `lr`, each times the multiplier of the longest prefix in `lr_multipliers`
    that the parameter's name has; biases, norms and scalars are not decayed. With `freeze_vision` the backbone is
    frozen first. A group has a `name` and its `peak_lr`.

    The step is fused: on a CPU and on CUDA it reads `optimizer.found_inf` on the device, and a 1 there leaves weights,
    moments and step counters as they are.

    Args:
        model: the bare model on its device, before DistributedDataParallel or torch.compile wrap it: they change names.

    Raises:
        ClipBertError: a prefix in `lr_multipliers` that no parameter has.
    """
    if params.freeze_vision:
        freeze_vision(model)
    _check_prefixes(params.lr_multipliers, [name for name, _ in model.named_parameters()])
    groups: dict[tuple[bool, bool, str], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (".vision." in name, parameter.ndim > 1, _longest_prefix(name, params.lr_multipliers))
            groups.setdefault(key, []).append(parameter)
    made = []
    for (vision, decayed, prefix), parameters in groups.items():
        rate = (params.vision_lr or params.lr) if vision else params.lr
        rate *= params.lr_multipliers.get(prefix, 1.0)
        name = f"{'vision' if vision else 'rest'}, {'decayed' if decayed else 'not decayed'}"
        made.append(
            {
                "params": parameters,
                "name": f"{name}, {prefix}" if prefix else name,
                "lr": rate,
                "peak_lr": rate,
                "weight_decay": params.weight_decay if decayed else 0.0,
            }
        )
    return AdamW(made, betas=(0.9, 0.98), fused=True)


def set_learning_rate(optimizer: AdamW, factor: float) -> None:
    """Set each group's rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]


def freeze_vision(model: nn.Module) -> None:
    """The backbone keeps its weights and its batch norms' statistics, whatever `model.train()` says later.

    The projection behind it (section 3.1 of the paper), which no backbone comes with, goes on learning.
    """
    for module in model.modules():
        if isinstance(module, GridEncoder):
            module.freeze_backbone()


def check_gradients(model: nn.Module) -> None:
    """After the first backward: every parameter that learns has a gradient.

    Raises:
        ClipBertError: some have none, for the loss does not depend on them; it names them all.
    """
    without = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    if without:
        raise ClipBertError(
            f"{type(model).__name__}: {len(without)} parameters are to learn, but the loss gives them no gradient: "
            f"{', '.join(without)}. They would keep the values they start with. Use them in the loss, leave them out "
            "of the model, or call requires_grad_(False) on them."
        )


def _longest_prefix(name: str, prefixes: Iterable[str]) -> str:
    """The longest of `prefixes` that `name` has; empty where it has none."""
    return max((prefix for prefix in prefixes if _has_prefix(name, prefix)), key=len, default="")


def _has_prefix(name: str, prefix: str) -> bool:
    """Whole parts of a name only: `layer.1` is no prefix of `layer.10.weight`."""
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
