"""Conditions of an evaluation: every setting that changes scores, the test items, and the version of the scoring code.

`clipbert evaluate` stores them with the predictions, `clipbert register` in the tags of the version, and promotion
compares two models only if they are equal.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from clipbert.config.schema import EvaluateParams, FramesParams
from clipbert.config.tasks import Section, TaskSection
from clipbert.errors import ClipBertError
from clipbert.tasks import task_class

# Increase it with every change of the code that gives the same model other scores: frame choice, preprocessing,
# ranking, decoding of captions, metrics of one item, trivial baselines.
SCORING_VERSION = 2
ATTRIBUTE = "evaluation"  # of the table of predictions (DataFrame.attrs)
FRAMES = ("fps", "size", "quality", "max_frames", "sampling")  # settings of the frame cache that change its frames
AnySection = TypeVar("AnySection", bound=Section)
TEXTS = ("test_items", "frames.sampling", "precision")  # conditions that are words, not JSON values
RECORDED_AS = {"rerank_top_k": "rerank"}  # the name in stored tables and tags of versions


def conditions(task: str, task_params: TaskSection, evaluate: EvaluateParams, frames: FramesParams) -> dict[str, Any]:
    """Return the settings that change the scores of a task, by recorded name, and the version of the scoring code."""
    evaluator = task_class(task).evaluator_class
    found: dict[str, Any] = {"clips": evaluate.clips}
    found |= {RECORDED_AS.get(name, name): getattr(evaluate, name) for name in evaluator.evaluate_settings}
    found |= {name: getattr(task_params, name) for name in evaluator.task_settings}
    found |= {f"frames.{name}": getattr(frames, name) for name in FRAMES}
    return {**found, "scoring": SCORING_VERSION}


def with_conditions(
    task: str, task_params: TaskSection, evaluate: EvaluateParams, recorded: Mapping[str, Any]
) -> tuple[TaskSection, EvaluateParams]:
    """Return the two sections with the settings of a recorded evaluation, to evaluate another model in the same way.

    The settings of the frame cache are not among them: the cache on the disk was built with its own.
    """
    evaluator = task_class(task).evaluator_class
    return (
        _updated(task_params, evaluator.task_settings, recorded),
        _updated(evaluate, ("clips", *evaluator.evaluate_settings), recorded),
    )


def differences(task: str, recorded: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the conditions in which two evaluations differ, as "NAME: A, B"; a missing one counts as different."""
    names = sorted({*_names(task), *recorded, *other})
    return [
        f"{name}: {_shown(recorded, name)}, {_shown(other, name)}"
        for name in names
        if name not in recorded or name not in other or recorded[name] != other[name]
    ]


def items_digest(examples: Iterable[Any], checksums: Mapping[str, str]) -> str:
    """Return the SHA-256 of test items: their texts, right answers and media.

    Args:
        examples: the task's `Example`s of the split.
        checksums: media to the SHA-256 of its bytes.
    """
    digest = hashlib.sha256()
    for example in examples:
        facts = {key: value for key, value in vars(example).items() if key not in ("captions", "segment")}
        if example.segment is not None:  # without segments the digest is that of earlier versions
            facts |= example.segment.columns()
        digest.update(json.dumps([facts, checksums.get(example.media)], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def to_tags(recorded: Mapping[str, Any]) -> dict[str, str]:
    """Return conditions as tags `evaluation.NAME` of a version."""
    return {
        f"{ATTRIBUTE}.{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in recorded.items()
    }


def from_tags(task: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the conditions in the tags of a version; empty for a version registered before they were recorded.

    Raises:
        ClipBertError: a tag is not a JSON value.
    """
    if f"{ATTRIBUTE}.scoring" not in tags:
        return {}
    found: dict[str, Any] = {}
    for name in _names(task):
        text = tags.get(f"{ATTRIBUTE}.{name}")
        if text is None:
            continue
        try:
            found[name] = text if name in TEXTS or text == "auto" else json.loads(text)
        except ValueError as error:
            raise ClipBertError(
                f"The version's tag {ATTRIBUTE}.{name} is {text!r}; expected a JSON value. Register the model again: "
                f"`clipbert register {task}`."
            ) from error
    return found


def _names(task: str) -> tuple[str, ...]:
    """Return the names of all conditions of a task."""
    evaluator = task_class(task).evaluator_class
    settings = ("clips", *evaluator.evaluate_settings, *evaluator.task_settings)
    frames = (f"frames.{name}" for name in FRAMES)
    return (*(RECORDED_AS.get(name, name) for name in settings), *frames, "scoring", "test_items")


def _updated(section: AnySection, names: Iterable[str], recorded: Mapping[str, Any]) -> AnySection:
    """Return a section with the recorded values of its parameters `names`."""
    found = {name: RECORDED_AS.get(name, name) for name in names}
    values = {name: recorded[stored] for name, stored in found.items() if stored in recorded}
    return type(section).model_validate(section.model_dump() | values)


def _shown(recorded: Mapping[str, Any], name: str) -> str:
    return str(recorded[name]) if name in recorded else "not recorded"
