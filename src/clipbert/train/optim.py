"""AdamW with the paper's parameter groups, and the warm-up and linear decay of its learning rate."""

from torch import nn
from torch.optim import AdamW

from clipbert.train_params import TrainParams


def make_optimizer(model: nn.Module, params: TrainParams) -> AdamW:
    """AdamW over four groups: vision or not, decayed or not (biases, norms and scalars are not decayed)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((".vision." in name, parameter.ndim > 1), []).append(parameter)
    vision_lr = params.vision_lr or params.lr
    return AdamW(
        [
            {
                "params": parameters,
                "lr": vision_lr if vision else params.lr,
                "peak_lr": vision_lr if vision else params.lr,
                "weight_decay": params.weight_decay if decayed else 0.0,
            }
            for (vision, decayed), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
    )


def set_learning_rate(optimizer: AdamW, step: int, steps: int, warmup_fraction: float) -> float:
    """Set each group's rate for 0-based `step`: a linear rise to its peak, then a linear fall to zero at `steps`.

    Returns the factor of the peak, in (0, 1].
    """
    warmup = max(1, round(warmup_fraction * steps))
    factor = (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]
    return factor
