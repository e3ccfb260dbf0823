"""The tasks, one file each, and their registry.

A task of this package is the class in the file of its name. A task of another package is registered by
`@register_task` when its module is imported, which an entry point of the group `clipbert.tasks` triggers.
"""

import importlib
from typing import TYPE_CHECKING, TypeVar

from clipbert.config.schema import set_task_section
from clipbert.config.tasks import TasksParams, check_task

if TYPE_CHECKING:
    from clipbert.tasks.base import Task

Registered = TypeVar("Registered", bound="type[Task]")
_CLASSES: dict[str, "type[Task]"] = {}


def register_task(task: Registered) -> Registered:
    """Make a task known by its name, with its section of params.yaml; use it as a class decorator.

    Raises:
        ValueError: another task has the name.
    """
    field = TasksParams.model_fields.get(task.name)
    if field is None:
        set_task_section(task.name, task.params_class)
    elif task.name in _CLASSES or field.annotation is not task.params_class:
        raise ValueError(f"{task.__qualname__}: there is a task called {task.name!r} already. Choose another name.")
    _CLASSES[task.name] = task
    return task


def unregister_task(name: str) -> None:
    """Remove a task that `register_task` added, and its section of params.yaml."""
    del _CLASSES[name]
    set_task_section(name, None)


def task_class(name: str) -> type["Task"]:
    """Return the class of the task called `name`; its module is imported now.

    Raises:
        ClipBertError: there is no such task.
    """
    if check_task(name) not in _CLASSES:
        importlib.import_module(f"clipbert.tasks.{name}")
    return _CLASSES[name]


def make_task(name: str, params: TasksParams) -> "Task":
    """Return the task called `name` with its section of `params`.

    Raises:
        ClipBertError: there is no such task.
    """
    return task_class(name)(params.section(name))


__all__ = ["make_task", "register_task", "task_class", "unregister_task"]
