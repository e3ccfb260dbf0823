"""The learning rate over a run: a linear warm-up, then one of five curves; pure arithmetic."""

import math

from clipbert.config.training import TrainParams


def factor(done: float, total: float, params: TrainParams) -> float:
    """What share of its peak the learning rate is, in [0, 1], for the step that starts when `done` of `total` is done.

    Warm-up and milestones are shares of `total`; the warm-up has one step at least. After it, from 1:

    - linear: a straight fall to 0 at `total` (the paper's);
    - cosine: half a cosine to 0 at `total` (Loshchilov and Hutter 2017, without restarts);
    - inverse_sqrt: as the inverse square root of the steps made (Vaswani et al. 2017); it does not reach 0;
    - multi_step: times `gamma` from each of the `milestones` on;
    - constant: 1.

    Args:
        done, total: 0-based step and number of steps, or what `Pace.position` says of a budget.
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
