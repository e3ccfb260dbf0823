"""What `clipbert params` shows: every parameter, one of them in full, or a complete parameter file."""

from pathlib import Path
from typing import Any, get_args

import yaml

from clipbert.config.fields import allowed_in_words, bounds_in_words, find_field, suggest
from clipbert.config.schema import Params
from clipbert.config.yaml_io import dump_yaml, parse_yaml
from clipbert.errors import ClipBertError

GRAPH = "dvc.yaml"
# What no stage of the graph reads, and which verb does.
VERBS = {"release": "clipbert promote", "tasks_run": "the graph: which tasks are trained", "pretrain_run": "the graph"}


def explain(params: Params) -> list[tuple[str, Any, str]]:
    """(dotted path, value, meaning with its bounds) of every parameter."""
    rows = []
    for path, value in params.flat().items():
        field = find_field(Params, path)
        assert field is not None
        bounds = bounds_in_words(field)
        rows.append((path, value, (field.description or "") + (f" [{bounds}]" if bounds else "")))
    return rows


def explain_one(params: Params, name: str, root: Path) -> list[tuple[str, str]]:
    """(title, text) pairs about the parameter `name`: value, default, bounds, meaning, the stages that read it.

    Args:
        root: the project, whose dvc.yaml says what its stages read.

    Raises:
        ClipBertError: there is no such parameter, with the name that was probably meant.
    """
    known = params.flat()
    field = find_field(Params, name)
    if field is None or name not in known:
        inside = [path for path in known if path.startswith(f"{name}.")]
        if inside:
            raise ClipBertError(f"{name}: a section; name one of its parameters: {', '.join(inside)}.")
        hint = suggest(name, list(known)).rstrip()
        raise ClipBertError(f"{name}: no such parameter; {hint or 'clipbert params lists them.'}")
    return [
        ("value", _text(known[name])),
        ("default", _text(Params().flat()[name])),
        ("allowed", allowed_in_words(field)),
        ("meaning", field.description or "-"),
        ("read by", ", ".join(readers(name, root)) or "-"),
    ]


def readers(name: str, root: Path) -> list[str]:
    """The stages of the project's dvc.yaml that read a parameter, or the verb that does."""
    try:
        stages = (parse_yaml((root / GRAPH).read_text(encoding="utf-8")) or {}).get("stages", {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return [f"unknown: {root / GRAPH} cannot be read"]
    found = [stage for stage, content in stages.items() if _reads(content, name)]
    verb = next((verb for prefix, verb in VERBS.items() if f"{name}.".startswith(f"{prefix}.")), None)
    return found + ([verb] if verb and not found else [])


def complete_file(params: Params) -> str:
    """The text of a complete params.yaml with these values."""
    return dump_yaml(params.model_dump(by_alias=True, mode="json"))


def _reads(stage: Any, name: str) -> bool:
    """Whether a stage lists a parameter or its section, or uses its value in a command or a dependency."""
    if not isinstance(stage, dict):
        return False
    listed = [text for text in stage.get("params") or [] if isinstance(text, str)]
    task = name.split(".")[1] if name.startswith("tasks.") else ""
    if task in _tasks_of(stage):
        listed = [text.replace("${item.task}", task) for text in listed]
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in listed) or f"${{{name}}}" in str(stage)


def _tasks_of(stage: dict[str, Any]) -> tuple[str, ...]:
    """The tasks that a stage's matrix, `task: ${PARAMETER}`, can run for."""
    parameter = str((stage.get("matrix") or {}).get("task", "")).removeprefix("${").removesuffix("}")
    field = find_field(Params, parameter)
    entry = get_args(field.annotation)[0] if field is not None else None
    return get_args(entry)


def _text(value: Any) -> str:
    return dump_yaml(value).removesuffix("...\n").strip()
