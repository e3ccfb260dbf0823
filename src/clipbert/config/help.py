"""Parameter help for `clipbert params`: all parameters, one in detail, or a complete parameter file."""

from pathlib import Path
from typing import Any, get_args

import yaml

from clipbert.config.fields import allowed_in_words, bounds_in_words, find_field, suggest
from clipbert.config.schema import Params
from clipbert.config.yaml_io import dump_yaml, parse_yaml
from clipbert.errors import ClipBertError

GRAPH = "dvc.yaml"
# Parameters that no stage lists, and what reads them.
OTHER_READERS = {
    "inbox": "clipbert inbox",
    "release": "clipbert promote",
    "tasks_run": "dvc.yaml",
    "pretrain_run": "dvc.yaml",
}


def explain(params: Params) -> list[tuple[str, Any, str]]:
    """Return (dotted path, value, description with bounds) of every parameter."""
    rows = []
    for path, value in params.flat().items():
        field = find_field(Params, path)
        assert field is not None
        bounds = bounds_in_words(field)
        rows.append((path, value, (field.description or "") + (f" [{bounds}]" if bounds else "")))
    return rows


def explain_one(params: Params, name: str, root: Path) -> list[tuple[str, str]]:
    """Return (title, text) pairs about one parameter: value, default, bounds, description and the stages that read it.

    Args:
        params: the loaded parameters.
        name: the dotted path of a parameter.
        root: the project folder with dvc.yaml.

    Raises:
        ClipBertError: there is no such parameter; the message suggests the most similar name.
    """
    known = params.flat()
    field = find_field(Params, name)
    if field is None or name not in known:
        inside = [path for path in known if path.startswith(f"{name}.")]
        if inside:
            raise ClipBertError(f"{name}: is a section; expected one of its parameters: {', '.join(inside)}.")
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
    """Return the stages of dvc.yaml that read a parameter, or the command that does."""
    try:
        stages = (parse_yaml((root / GRAPH).read_text(encoding="utf-8")) or {}).get("stages", {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return [f"unknown: {root / GRAPH} cannot be read"]
    found = [stage for stage, content in stages.items() if _reads(content, name)]
    verb = next((verb for prefix, verb in OTHER_READERS.items() if f"{name}.".startswith(f"{prefix}.")), None)
    return found + ([verb] if verb and not found else [])


def complete_file(params: Params) -> str:
    """Return the text of a complete params.yaml with these values."""
    return dump_yaml(params.model_dump(by_alias=True, mode="json"))


def _reads(stage: Any, name: str) -> bool:
    """Return whether a stage lists a parameter or its section, or uses its value in a command or a dependency."""
    if not isinstance(stage, dict):
        return False
    listed = [text for text in stage.get("params") or [] if isinstance(text, str)]
    task = name.split(".")[1] if name.startswith("tasks.") else ""
    if task in _tasks_of(stage):
        listed = [text.replace("${item.task}", task) for text in listed]
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in listed) or f"${{{name}}}" in str(stage)


def _tasks_of(stage: dict[str, Any]) -> tuple[str, ...]:
    """Return the tasks that the matrix of a stage, `task: ${PARAMETER}`, can contain."""
    parameter = str((stage.get("matrix") or {}).get("task", "")).removeprefix("${").removesuffix("}")
    field = find_field(Params, parameter)
    entry = get_args(field.annotation)[0] if field is not None else None
    return get_args(entry)


def _text(value: Any) -> str:
    return dump_yaml(value).removesuffix("...\n").strip()
