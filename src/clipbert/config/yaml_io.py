"""YAML as DVC writes it: in DVC's YAML 1.2, 5e-05 is a number; in PyYAML's YAML 1.1, it is text."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from clipbert.errors import ClipBertError

MERGE = "tag:yaml.org,2002:merge"


class DuplicateKeyError(yaml.YAMLError):
    """Key that occurs twice in one section; PyYAML would keep only the last value."""

    def __init__(self, key: object, first: int, second: int) -> None:
        super().__init__(f"{key} occurs twice in one section, in line {first} and in line {second}: remove one of them")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that also reads floats without a point or exponent sign, and rejects duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[object, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag != MERGE and isinstance(key_node, yaml.ScalarNode):
                key, line = self.construct_object(key_node), key_node.start_mark.line + 1
                if key in lines:
                    raise DuplicateKeyError(key, lines[key], line)
                lines[key] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Return the value of the YAML document in `text`.

    Raises:
        yaml.YAMLError: it is invalid, nested too deeply, or a key occurs twice in one section.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except ValueError as error:  # a date such as 2026-99-99, a number such as 0x
        raise yaml.YAMLError(str(error)) from error


def read_yaml_text(file: Path, name: Path, missing: str) -> str:
    """Return the text of a YAML file of the user.

    Args:
        file: where it is.
        name: what to call it in messages.
        missing: what a message says after the name if the file does not exist.

    Raises:
        ClipBertError: it does not exist, cannot be read or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ClipBertError(f"{name}: {missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClipBertError(f"{name}: cannot be read ({error}); expected a UTF-8 YAML file.") from error


def parse_yaml_mapping(text: str, name: Path, expected: str, may_be_empty: bool = False) -> dict[str, Any]:
    """Return the mapping in the text of a user's YAML file.

    Args:
        name: of the file, for messages.
        expected: what the mapping holds, for messages, such as "sections such as `train:`".
        may_be_empty: return {} for a text without a value.

    Raises:
        ClipBertError: it is not valid YAML, a key occurs twice in one section, or it is not a mapping.
    """
    try:
        values = parse_yaml(text)
    except DuplicateKeyError as error:
        raise ClipBertError(f"{name}: {error}.") from error
    except yaml.YAMLError as error:
        raise ClipBertError(f"{name}: not valid YAML: {error}") from error
    if may_be_empty and not values:
        return {}
    if not isinstance(values, dict):
        raise ClipBertError(f"{name}: expected {expected}, found {type(values).__name__}.")
    return values


def dump_yaml(value: Any) -> str:
    """Return `value` as YAML: sections as blocks in their given order, lists in one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that writes lists in one line."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def leaves(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return (dotted path, value) of every value in nested sections.

    A mapping that is empty or has a key with a dot is a value, not a section.
    """
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        path = f"{prefix}{key}"
        section = isinstance(inner, dict) and inner and not any("." in str(name) for name in inner)
        found += leaves(inner, f"{path}.") if section else [(path, inner)]
    return found
