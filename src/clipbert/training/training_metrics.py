"""Metrics of a finished training: the validation metrics of its best epoch, and what it cost."""

from clipbert.training.trainer import Trainer


def training_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics of a training by the names that DVC and MLflow show.

    Returns:
        `TASK_val/NAME` for each validation metric of the best epoch, the one that chose the epoch first, and
        `TASK_val/epoch`; `TASK_cost/NAME` for each value of `training_cost`.
    """
    task, state = trainer.task.name, trainer.state
    best = next((row for row in state.validation if row["step"] == state.best_step), {})
    names = [name for name in best if name not in ("step", "epoch")]
    names.sort(key=lambda name: name != trainer.task.evaluator.main_metric)
    found = {f"{task}_val/{name.removeprefix(f'{task}/')}": round(float(best[name]), 4) for name in names}
    found[f"{task}_val/epoch"] = float(state.best_epoch)
    return found | {f"{task}_cost/{name}": value for name, value in training_cost(trainer).items()}


def training_cost(trainer: Trainer) -> dict[str, float]:
    """Return the cost of a training over all its resumes.

    Returns:
        `seconds` with validations and checkpoints, `steps`, `parameters` (of the model), `tflop` (forward and backward
        passes of all processes, 10^12 operations), and `joules` of all processes if the device reports its energy.
    """
    state = trainer.state
    cost = {
        "seconds": round(state.seconds, 1),
        "steps": float(state.step),
        "parameters": float(sum(parameter.numel() for parameter in trainer.model.parameters())),
        "tflop": round(state.flops / 1e12, 6),
    }
    if state.joules:
        # only a budget of joules sums the energy of the processes; each has an equal share of every batch
        summed = trainer.budget.budget.unit == "J"
        cost["joules"] = round(state.joules * (1 if summed else trainer.context.world), 1)
    return cost
