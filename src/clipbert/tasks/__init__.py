"""One small file a task: how a batch becomes a loss, how predictions become metrics."""

from clipbert.params import Params, check_task
from clipbert.tasks.base import Task


def make_task(name: str, params: Params) -> Task:
    """The task called `name`, with its own section of the parameters.

    Raises:
        ClipBertError: there is no such task.
    """
    check_task(name)
    if name == "retrieval":
        from clipbert.tasks.retrieval import Retrieval

        return Retrieval(params.tasks.retrieval)
    from clipbert.tasks.open_qa import OpenQA

    return OpenQA(params.tasks.open_qa)


__all__ = ["Task", "make_task"]
