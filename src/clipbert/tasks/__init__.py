"""One small file a task: how a batch becomes a loss, how predictions become metrics, how a reader sees them."""

import importlib
from typing import TYPE_CHECKING

from clipbert.config.schema import Params, check_task

if TYPE_CHECKING:
    from clipbert.tasks.base import Task

# Imported when asked for: a summary needs the names of the metrics, and no torch.
CLASSES = {
    "retrieval": "Retrieval",
    "open_qa": "OpenQA",
    "multiple_choice": "MultipleChoice",
    "image_qa": "ImageQA",
    "captioning": "Captioning",
    "pretrain": "Pretrain",
}


def task_class(name: str) -> type["Task"]:
    """The class of the task called `name`, in the file of that name.

    Raises:
        ClipBertError: there is no such task.
    """
    module = importlib.import_module(f"clipbert.tasks.{check_task(name)}")
    found: type[Task] = getattr(module, CLASSES[name])
    return found


def make_task(name: str, params: Params) -> "Task":
    """The task called `name`, with its own section of the parameters.

    Raises:
        ClipBertError: there is no such task.
    """
    return task_class(name)(getattr(params.tasks, check_task(name)))


__all__ = ["make_task", "task_class"]
