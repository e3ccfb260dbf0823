"""Reading of params.yaml and of overrides, with messages that name the parameter, its value and what is allowed."""

import contextlib
import copy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from clipbert.config.fields import describe_problem, drop_empty_sections, missing_parameters
from clipbert.config.schema import Params
from clipbert.config.tasks import load_installed_tasks
from clipbert.config.yaml_io import dump_yaml, leaves, parse_yaml, parse_yaml_mapping, read_yaml_text
from clipbert.errors import ClipBertError


def load_params(
    path: Path = Path("params.yaml"), overrides: list[str] | None = None, source: str = "--set", complete: bool = True
) -> Params:
    """Read a parameter file and apply overrides of the form `key=value`, with values in YAML.

    Every parameter must be in the file or among the overrides: a truncated file must not turn into default values.

    Args:
        path: the parameter file.
        overrides: for example `["train.lr=0.001"]`.
        source: the origin of the overrides, for messages.
        complete: False uses the default of every missing parameter.

    Raises:
        ClipBertError: the file is missing, unreadable or truncated; a key is unknown, missing or duplicated; a value
            has the wrong type or is out of range. The message names each parameter, its value and what is allowed, and
            the override if the mistake is in one.
    """
    load_installed_tasks()
    values = drop_empty_sections(Params, _read(path, complete))
    in_file_alone = copy.deepcopy(values)
    given: dict[tuple[str, ...], str] = {}
    for override in overrides or []:
        given[_apply(values, override, source)] = f"{source} {override}"
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        problems, params = error.errors(), None
    else:
        problems = []
    known = list(Params().flat())
    in_file: list[str] = []
    messages: list[str] = []
    for problem in problems:
        text = describe_problem(Params, known, problem)
        blamed = _blamed(problem, given, in_file_alone)
        if blamed is None:
            in_file.append(f"  {text}")
        else:
            messages.append(f"{blamed}: {text}")
    if in_file:
        messages.append(f"{path}: {len(in_file)} wrong parameter(s):\n" + "\n".join(in_file))
    if complete and (missing := missing_parameters(Params, values)):
        messages.append(_describe_missing(path, missing))
    if messages or params is None:
        raise ClipBertError("\n".join(messages))
    return params


def _read(path: Path, complete: bool) -> dict[str, Any]:
    text = read_yaml_text(
        path, path, "no such parameter file. Run the command in the project folder, or name the file with --params."
    )
    if complete and text and not text.endswith("\n"):
        raise ClipBertError(
            f"{path}: its last line does not end with a newline; the file may be truncated. Restore it "
            f"(git checkout {path}); if it is complete, add the newline."
        )
    return parse_yaml_mapping(text, path, "sections such as `train:`", may_be_empty=True)


def _describe_missing(path: Path, missing: dict[str, Any]) -> str:
    text = dump_yaml(missing)
    count = len(leaves(missing))
    listed = "".join(f"  {line}\n" for line in text.splitlines())
    return (
        f"{path}: {count} missing parameter(s). Add them to their sections, for example with the defaults:\n{listed}"
        f"If the file was truncated, restore it: git checkout {path}. "
        f"`clipbert params --complete` prints the file with the defaults added."
    )


def _apply(values: dict[str, Any], override: str, source: str) -> tuple[str, ...]:
    """Apply an override to nested `values` and return its path."""
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ClipBertError(f"{source} {override}: expected KEY=VALUE, for example --set train.lr=0.001")
    place = values
    for section in path[:-1]:
        if place.get(section) is None:
            place[section] = {}
        inner = place[section]
        if not isinstance(inner, dict):
            raise ClipBertError(f"{source} {override}: {section} is a value, not a section.")
        place = inner
    try:
        place[path[-1]] = parse_yaml(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise ClipBertError(f"{source} {override}: the value is not valid YAML ({reason}); quote the text.") from error
    return path


def _blamed(problem: ErrorDetails, given: dict[tuple[str, ...], str], in_file_alone: dict[str, Any]) -> str | None:
    """Return the overrides that cause a problem; None if the file does.

    A conflict between two parameters has no location: if the file alone is valid, the overrides of the parameters in
    the message cause it.
    """
    parts = tuple(map(str, problem["loc"]))
    if not parts:
        with contextlib.suppress(ValidationError):
            Params.model_validate(in_file_alone)
            named = [text for path, text in given.items() if path[-1] in problem["msg"]]
            return ", ".join(named or given.values())
        return None
    found = [text for path, text in given.items() if path[: len(parts)] == parts or parts[: len(path)] == path]
    return found[-1] if found else None
