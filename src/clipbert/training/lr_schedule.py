"""Learning rate schedules: a linear warm-up followed by one of five curves."""

import math

from clipbert.config.training import TrainParams


def lr_lambda(done: float, total: float, params: TrainParams) -> float:
    """Return the learning rate as a fraction of its peak, in [0, 1], for the step that starts at `done` of `total`.

    The warm-up and the milestones are fractions of `total`; the warm-up has at least one step. After the warm-up:

    - linear: decays linearly to 0 at `total` (the paper's schedule);
    - cosine: decays along half a cosine to 0 at `total` (Loshchilov and Hutter 2017, without restarts);
    - inverse_sqrt: decays with the inverse square root of the step (Vaswani et al. 2017); it does not reach 0;
    - multi_step: is multiplied by `gamma` at each of the `milestones`;
    - constant: stays 1.

    Args:
        done: 0-based step, or the first value of `BudgetTracker.schedule_position`.
        total: number of steps, or the second value.
    """
    warmup = max(1, round(params.warmup_fraction * total))
    if done < warmup:
        return min(1.0, (done + 1) / warmup)
    if params.schedule == "linear":
        return (total - done) / max(1, total - warmup)
    if params.schedule == "cosine":
        return (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup))) / 2
    if params.schedule == "inverse_sqrt":
        return math.sqrt(warmup / (done + 1))
    if params.schedule == "multi_step":
        return math.prod(params.gamma for milestone in params.milestones if done >= round(milestone * total))
    return 1.0
