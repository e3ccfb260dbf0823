"""Conditions of an evaluation: every setting that changes scores, the test items, and the version of the scoring code.

`clipbert evaluate` writes them into the table of predictions, `clipbert register` into the tags of the version, and
promotion compares two models only when they are equal. Imports no torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from clipbert.config.schema import Params
from clipbert.errors import ClipBertError

# Raise it with every change of the code that gives the same model other scores: frame choice, preprocessing, ranking,
# decoding of captions, metrics of one item, trivial baselines.
SCORING_VERSION = 1
ATTRIBUTE = "evaluation"  # of the table of predictions (DataFrame.attrs)

# Settings of the frame cache that change what a model sees.
FRAMES = ("fps", "size", "quality", "max_frames", "sampling")
SETTINGS: dict[str, tuple[str, ...]] = {
    "retrieval": ("evaluate.rerank_top_k",),
    "captioning": tuple(f"tasks.captioning.{key}" for key in ("beams", "max_length", "length_penalty")),
    "pretrain": ("tasks.pretrain.mask_probability",),
}
SETTINGS["captioning"] += ("tasks.captioning.no_repeat_ngram",)
RECORDED_AS = {"evaluate.rerank_top_k": "rerank"}  # in stored tables and tags, which keep the name they were given


def conditions(task: str, params: Params) -> dict[str, Any]:
    """Return the settings that change the scores of a task, by short name, and the version of the scoring code."""
    flat = params.flat()
    found = {_short(name): flat[name] for name in _settings(task)}
    found |= {f"frames.{key}": flat[f"frames.{key}"] for key in FRAMES}
    return {**found, "scoring": SCORING_VERSION}


def with_conditions(task: str, params: Params, recorded: Mapping[str, Any]) -> Params:
    """Return `params` with the settings of a recorded evaluation, so that another model is evaluated in the same way.

    The settings of the frame cache stay: the cache on the disk was built with them.
    """
    nested = params.model_dump(by_alias=True)
    for name in _settings(task):
        if _short(name) in recorded:
            *parents, key = name.split(".")
            section = nested
            for parent in parents:
                section = section[parent]
            section[key] = recorded[_short(name)]
    return Params.model_validate(nested)


def differences(task: str, recorded: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the conditions in which two evaluations differ, as "NAME: A, B"; those that one lacks count too."""
    names = sorted({*conditions(task, Params()), "test_items", *recorded, *other})
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
        facts = {key: value for key, value in vars(example).items() if key != "captions"}
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
        ClipBertError: a tag holds no value.
    """
    if f"{ATTRIBUTE}.scoring" not in tags:
        return {}
    found: dict[str, Any] = {}
    for name in (*conditions(task, Params()), "test_items"):
        text = tags.get(f"{ATTRIBUTE}.{name}")
        if text is None:
            continue
        try:
            found[name] = text if name in ("test_items", "frames.sampling") else json.loads(text)
        except ValueError as error:
            raise ClipBertError(
                f"The version's tag {ATTRIBUTE}.{name} is {text!r}; expected a JSON value. Register the model again: "
                f"`clipbert register {task}`."
            ) from error
    return found


def _settings(task: str) -> tuple[str, ...]:
    return ("evaluate.clips", *SETTINGS.get(task, ()))


def _short(name: str) -> str:
    return RECORDED_AS.get(name) or name.rpartition(".")[2]


def _shown(recorded: Mapping[str, Any], name: str) -> str:
    return str(recorded[name]) if name in recorded else "not recorded"
