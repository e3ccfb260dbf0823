"""Parameters by dotted path: their bounds in words, missing ones, and messages about wrong values."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
TYPES |= {list: "a list", dict: "a mapping"}
BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}
LENGTHS = {MinLen: ("min_length", "at least"), MaxLen: ("max_length", "at most")}
MIN_SIMILARITY = 0.5  # of a name that is suggested
RENAMED = {  # old name: new name, for messages
    "ingest.workers": "ingest.num_workers",
    "validate.max_leakage": "validate.max_near_duplicates",
    "validate.max_look_distance": "validate.max_hash_distance",
    "validate.severity.split_by_look": "validate.severity.near_duplicates",
    "evaluate.rerank": "evaluate.rerank_top_k",
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.clip_norm": "train.max_grad_norm",
    "train.workers": "train.num_workers",
}

MOVED = {  # parameters that are in another file now, for messages
    "release.confidence": "mlflow/promotion.yaml as confidence",
    "release.min_gain": "mlflow/promotion.yaml as min_improvement, in points: 0.01 is 1.0 there",
    "release.bootstrap_samples": "mlflow/promotion.yaml as bootstrap_samples",
}


def find_field(root: type[BaseModel], path: str) -> FieldInfo | None:
    """Return the field at a dotted path; None if there is none or it is a section."""
    *sections, name = path.split(".")
    field = _field(_section_at(root, tuple(sections)), name)
    return None if field is None or _section_of(field) is not None else field


def bounds_in_words(field: FieldInfo) -> str:
    """Return the allowed values in words: `at least 1, at most 64` or `one of linear, cosine`; empty if unrestricted.

    Bounds of the entries of a list or mapping start with `each entry`.
    """
    words = _limits(field.metadata)
    for kind in _alternatives(field.annotation):
        if get_origin(kind) is Literal and not _is_mixed(field):
            words.append(f"one of {', '.join(map(str, get_args(kind)))}")
        elif get_origin(kind) in (list, dict):
            entry = get_args(kind)[-1]
            inner = _limits(getattr(entry, "__metadata__", ()))
            if get_origin(entry) is Literal:
                inner = [f"one of {', '.join(map(str, get_args(entry)))}"]
            words += [f"each entry {', '.join(inner)}"] if inner else []
    return ", ".join(words)


def allowed_in_words(field: FieldInfo) -> str:
    """Return the type and the bounds of a field: `an integer or null; at least 1`."""
    kinds = [TYPES.get(get_origin(kind) or kind, "") for kind in _alternatives(field.annotation)]
    if _is_mixed(field):
        kinds += [str(value) for kind in _alternatives(field.annotation) for value in _literals(kind)]
    return "; ".join(text for text in (" or ".join(filter(None, kinds)), bounds_in_words(field)) if text)


def missing_parameters(root: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are missing in nested `values`, with their defaults, in the order of the schema.

    All parameters of an empty section are missing. A value in the place of a section is reported elsewhere.
    """
    missing: dict[str, Any] = {}
    for key, field in root.model_fields.items():
        name, section = field.alias or key, _section_of(field)
        if section is None:
            if name not in values:
                missing[name] = field.get_default(call_default_factory=True, validated_data={})
        else:
            inner = values.get(name) or {}
            if isinstance(inner, Mapping) and (lacking := missing_parameters(section, inner)):
                missing[name] = lacking
    return missing


def drop_empty_sections(root: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` without empty sections, such as `train:` with nothing below it."""
    kept = dict(values)
    for key, field in root.model_fields.items():
        name, section = field.alias or key, _section_of(field)
        if section is not None and name in kept:
            if kept[name] is None:
                del kept[name]
            elif isinstance(kept[name], Mapping):
                kept[name] = drop_empty_sections(section, kept[name])
    return kept


def suggest(name: str, known: Sequence[str]) -> str:
    """Return `did you mean X? ` for a renamed, equally ending or similarly spelled name; empty if none is known."""
    if name in RENAMED:
        return f"did you mean {RENAMED[name]}? "
    last = name.rpartition(".")[2]
    same_end = [path for path in known if path.rpartition(".")[2] == last]
    near = same_end or difflib.get_close_matches(name, known, n=1, cutoff=MIN_SIMILARITY)
    return f"did you mean {near[0]}? " if near else ""


def describe_problem(root: type[BaseModel], known: Sequence[str], problem: ErrorDetails) -> str:
    """Return a message for a validation error that names the parameter, its value and what is allowed.

    Args:
        root: the class of the whole file.
        known: the dotted path of every parameter.
        problem: an error of pydantic.
    """
    location, value = problem["loc"], problem["input"]
    path = ".".join(str(part) for part in location)
    if not location:
        return problem["msg"].removeprefix("Value error, ")
    section = _section_at(root, location[:-1])
    if path in MOVED and problem["type"] == "extra_forbidden":
        return f"{path}: moved to {MOVED[path]}. Set it there, and remove it here."
    if problem["type"] == "extra_forbidden":
        here = [field.alias or name for name, field in section.model_fields.items()]
        parent = "".join(f"{part}." for part in location[:-1])
        hint = suggest(path, [key for key in known if key.endswith(f".{location[-1]}")])
        hint = hint or suggest(str(location[-1]), here).replace("did you mean ", f"did you mean {parent}")
        return f"{path}: unknown parameter; {hint}Known here: {', '.join(here)}."
    field = _field(section, location[-1]) or _field_around(root, location)
    what = f" ({field.description})" if field is not None and field.description else ""
    message = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if problem["type"] == "value_error" and _section_of(field) is not None:
        return f"{path}: {message}."  # two of its parameters contradict each other
    if isinstance(value, str) and problem["type"].startswith("float") and _is_number(value):
        message += f"; YAML reads {value} as text, write {float(value)!r}"
    return f"{path} = {value!r}: expected {message}{what}."


def _limits(metadata: Any) -> list[str]:
    words = []
    for limit in metadata:
        if type(limit) in BOUNDS:
            name, word = BOUNDS[type(limit)]
            words.append(f"{word} {getattr(limit, name)}")
        elif type(limit) in LENGTHS:
            name, word = LENGTHS[type(limit)]
            words.append(f"{word} {getattr(limit, name)} entries")
        elif pattern := getattr(limit, "pattern", None):
            words.append(f"of the form {pattern}")
        elif isinstance(limit, FieldInfo):
            words += _limits(limit.metadata)
    return words


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union, or a single type."""
    if get_origin(annotation) in (Literal, list, dict):
        yield annotation
        return
    yield from get_args(annotation) or (annotation,)


def _literals(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _is_mixed(field: FieldInfo) -> bool:
    """Return whether a field takes words or values of another type, such as `auto` or a number."""
    kinds = [kind for kind in _alternatives(field.annotation) if kind is not type(None)]
    return any(_literals(kind) for kind in kinds) and not all(_literals(kind) for kind in kinds)


def _field(section: type[BaseModel], name: int | str) -> FieldInfo | None:
    return next((field for key, field in section.model_fields.items() if (field.alias or key) == name), None)


def _section_at(root: type[BaseModel], location: Location) -> type[BaseModel]:
    """Return the class of the section at `location`, or of the last section on the way to it."""
    section = root
    for key in location:
        inner = _section_of(_field(section, key))
        if inner is None:
            break
        section = inner
    return section


def _field_around(root: type[BaseModel], location: Location) -> FieldInfo | None:
    """Return the field whose list or mapping contains the value at `location`."""
    inside = (_field(_section_at(root, location[:depth]), location[depth]) for depth in range(len(location) - 1))
    return next((field for field in inside if field is not None and _section_of(field) is None), None)


def _section_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the class of a field that is a section, else None."""
    annotation = field.annotation if field is not None else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def short_name(path: str, task: str) -> str:
    """Return a parameter's path without its section, where that is one of a training of `task`."""
    for section in ("model.", "train.", f"tasks.{task}."):
        if path.startswith(section):
            return path.removeprefix(section)
    return path
