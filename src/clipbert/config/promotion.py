"""Promotion policy of a project: the schema of `mlflow/promotion.yaml`, and reading it.

The file has a section `default` with every field, and a section `tasks` with the fields in which a task differs. It is
not part of params.yaml, because DVC has no stage that promotes: a changed policy reruns nothing.
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from clipbert.config.fields import describe_problem, drop_empty_sections, missing_parameters
from clipbert.config.models import Field, ValidationError
from clipbert.config.tasks import Section, task_names
from clipbert.config.yaml_io import dump_yaml, leaves, parse_yaml_mapping, read_yaml_text
from clipbert.errors import ClipBertError

POLICY = Path("mlflow", "promotion.yaml")
RESTORE = "Restore it (`git checkout mlflow/promotion.yaml`), or write the defaults: `clipbert policy --defaults > {}`."
Drop = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LimitsPolicy(Section):
    """Limits of cost and size, as `clipbert evaluate` measured them; null: no limit."""

    max_ms_per_item: float | None = Field(None, gt=0, description="milliseconds per test item of the evaluation")
    max_slowdown: float | None = Field(
        None, gt=0, description="milliseconds per test item divided by the champion's; both on one machine"
    )
    max_parameters: int | None = Field(None, ge=1, description="parameters of the model")
    max_model_mb: float | None = Field(None, gt=0, description="size of the model folder in MB")


class LineagePolicy(Section):
    """What must be known about the origin of a model."""

    code: Literal["any", "clean_or_saved", "saved"] = Field(
        "clean_or_saved",
        description="clean_or_saved: trained from a commit without changes, or saved; saved: a commit or a DVC "
        "experiment has the dvc.lock with this evaluation; any: not checked",
    )
    validated_data: bool = Field(True, description="the data of the training passed validation")
    no_leakage: bool = Field(True, description="validation found no leak between the splits")


class TaskPolicy(Section):
    """The policy of one task."""

    metric: str | None = Field(
        None,
        min_length=1,
        description="main metric, without the task's name; null: the mean score of the test items, such as r1, "
        "accuracy or cider",
    )
    min_improvement: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="required improvement of the main metric, in its unit (points)"
    )
    test: Literal["interval", "paired", "both"] = Field(
        "interval",
        description="interval: the interval of the difference lies above min_improvement; paired: the difference is "
        "above it and the task's paired test is significant; both",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the intervals and of the test")
    bootstrap_samples: int = Field(10_000, ge=100, description="bootstrap resamplings of the test videos")
    min_test_items: int = Field(20, ge=2, description="fewest test items that can decide")
    min_test_videos: int = Field(10, ge=2, description="fewest test videos that can decide")
    min_seeds: int = Field(
        1, ge=1, le=100, description="trainings of the candidate's configuration with different seeds"
    )
    guards: dict[str, Drop] = Field(
        {}, description="metrics that may not fall: name to the allowed fall, in the metric's unit (points)"
    )
    max_type_drop: Drop | None = Field(
        None, description="allowed fall of the accuracy of each question type, in points; null: not checked"
    )
    guard_test: Literal["interval", "difference"] = Field(
        "interval",
        description="interval: a guard fails if its interval lies below the allowed fall; difference: if the "
        "difference itself does",
    )
    limits: LimitsPolicy = LimitsPolicy()
    lineage: LineagePolicy = LineagePolicy()
    approval: Literal["auto", "person"] = Field(
        "auto", description="auto: the gate promotes; person: a person approves what passes the gate"
    )


@dataclass(frozen=True)
class PromotionPolicy:
    """The policies of all tasks.

    Attributes:
        path: the file.
        sha256: of the file.
        tasks: the complete policy of each task that the file names.
    """

    path: Path
    sha256: str
    default: TaskPolicy
    tasks: Mapping[str, TaskPolicy]

    def of(self, task: str) -> TaskPolicy:
        """Return the policy of a task."""
        return self.tasks.get(task, self.default)


def load_policy(root: Path, path: Path = POLICY) -> PromotionPolicy:
    """Read and check the promotion policy of the project at `root`.

    Raises:
        ClipBertError: the file is missing, unreadable, truncated or has wrong fields; the message names the file, each
            field, its value and what is expected.
    """
    file = root / path
    text = _read(file, path)
    values = parse_yaml_mapping(text, path, "the sections default and tasks")
    unknown = [str(key) for key in values if key not in ("default", "tasks")]
    if unknown:
        raise ClipBertError(f"{path}: {unknown[0]}: unknown section; expected default and tasks.")
    default, tasks = _mapping(path, "default", values), _mapping(path, "tasks", values)
    messages = []
    if missing := missing_parameters(TaskPolicy, default):
        listed = "".join(f"    {line}\n" for line in dump_yaml(missing).splitlines())
        messages.append(
            f"{path}: {len(leaves(missing))} missing field(s) in the section default. Add them, for example:\n{listed}"
            f"If the file was truncated: {RESTORE.format(path)}"
        )
    found, problems = _validate(default, "default", {})
    policies = {}
    for task, own in tasks.items():
        if task not in task_names():
            problems.append(f"tasks.{task}: unknown task; expected one of {', '.join(task_names())}.")
        elif not isinstance(own, dict):
            problems.append(f"tasks.{task} = {own!r}: expected fields of the policy, such as min_improvement.")
        else:
            merged = _merged(default, own)
            policies[task], wrong = _validate(merged, f"tasks.{task}", own)
            problems += wrong
    if problems:
        messages.append(f"{path}: {len(problems)} wrong field(s):\n" + "\n".join(f"  {line}" for line in problems))
    if messages or found is None:
        raise ClipBertError("\n".join(messages))
    known = {task: policy for task, policy in policies.items() if policy is not None}
    return PromotionPolicy(path, hashlib.sha256(text.encode()).hexdigest(), found, known)


def default_policy_text() -> str:
    """Return a policy file with the default of every field."""
    return dump_yaml({"default": TaskPolicy().model_dump(), "tasks": {}})


def _read(file: Path, path: Path) -> str:
    text = read_yaml_text(file, path, f"not found. It has the rules of promotion. {RESTORE.format(path)}")
    if not text.endswith("\n"):
        raise ClipBertError(
            f"{path}: its last line does not end with a newline; the file may be truncated. {RESTORE.format(path)}"
        )
    return text


def _mapping(path: Path, name: str, values: dict[str, Any]) -> dict[str, Any]:
    found = values.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ClipBertError(f"{path}: {name} = {found!r}: expected a section.")
    return drop_empty_sections(TaskPolicy, found) if name == "default" else found


def _merged(default: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a task over the default; `limits` and `lineage` are merged, `guards` is replaced."""
    merged = copy.deepcopy(default)
    for name, value in drop_empty_sections(TaskPolicy, own).items():
        if name in ("limits", "lineage") and isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] |= value
        else:
            merged[name] = value
    return merged


def _validate(values: dict[str, Any], where: str, own: dict[str, Any]) -> tuple[TaskPolicy | None, list[str]]:
    """Return a policy and what is wrong with it.

    Args:
        where: the section, for messages.
        own: the fields that this section sets; problems of inherited ones are reported once, for `default`.
    """
    try:
        return TaskPolicy.model_validate(values), []
    except ValidationError as error:
        known = list(_names(TaskPolicy()))
        wrong = [problem for problem in error.errors() if where == "default" or _is_own(problem["loc"], own)]
        return None, [f"{where}.{describe_problem(TaskPolicy, known, problem)}" for problem in wrong]


def _is_own(location: tuple[int | str, ...], own: Any) -> bool:
    for key in location:
        if not isinstance(own, dict):
            return True
        if key not in own:
            return False
        own = own[key]
    return True


def _names(section: Section, prefix: str = "") -> list[str]:
    found = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        found += _names(value, f"{prefix}{name}.") if isinstance(value, Section) else [f"{prefix}{name}"]
    return found
