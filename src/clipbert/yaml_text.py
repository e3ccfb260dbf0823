"""YAML as DVC writes it: DVC's is 1.2, where 5e-05 is a number; PyYAML's is 1.1, where it is text."""

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, that also knows floats without a point or without a sign of the exponent."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """The one document in `text`.

    Raises:
        yaml.YAMLError: it is not valid.
    """
    return yaml.load(text, _Loader)


def leaves(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted path, value) of everything in nested sections that is no section itself: a mapping that is empty or has a
    key with a dot is a value."""
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        path = f"{prefix}{key}"
        section = isinstance(inner, dict) and inner and not any("." in str(name) for name in inner)
        found += leaves(inner, f"{path}.") if section else [(path, inner)]
    return found
