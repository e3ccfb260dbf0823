"""Parameters without pydantic: the same defaults and values, in a process that cannot import it."""

import json
import pickle
from typing import Any, ClassVar

import pytest
from bare_python import run_bare

from clipbert.config.schema import Params
from clipbert.config.unvalidated import BaseModel, Field

VALUES: dict[str, Any] = {
    "seed": 7,
    "validate": {"severity": {"schema": "warn"}},
    "train": {"batch_size": 8, "lr_multipliers": {"contrast": 10.0}, "milestones": [0.25]},
    "tasks": {"retrieval": {"epochs": 3}},
    "model": {"preset": "small", "image_size": 64},
}
PROGRAM = """
import json, sys
from clipbert.config.schema import Params
assert "pydantic" not in sys.modules
params = [Params(), Params.model_validate(json.loads(sys.argv[1]))]
print(json.dumps([[p.flat(), p.model_dump(by_alias=True), p.model.overrides(), p.image_size] for p in params]))
"""


@pytest.mark.slow
def test_defaults_and_values_are_those_of_pydantic() -> None:
    found = json.loads(run_bare(PROGRAM, json.dumps(VALUES)))
    params = [Params(), Params.model_validate(VALUES)]
    expected = [[p.flat(), p.model_dump(by_alias=True), p.model.overrides(), p.image_size] for p in params]
    assert found == json.loads(json.dumps(expected))


class Inner(BaseModel):
    """A section."""

    size: int = Field(3, ge=1, le=9, description="a size")
    names: list[str] = Field(["a"])


class Outer(BaseModel):
    """A section with a section."""

    kind: ClassVar[str] = "outer"
    inner: Inner = Inner()
    check_: str = Field("fail", alias="check")
    made: Inner = Field(default_factory=lambda: Inner(size=5))
    needed: int


def test_sections_are_made_from_mappings_by_their_names_in_the_file() -> None:
    outer = Outer.model_validate({"inner": {"size": 4}, "check": "warn", "needed": 1})
    assert (outer.inner.size, outer.inner.names, outer.check_, outer.made.size) == (4, ["a"], "warn", 5)
    assert outer.model_dump(by_alias=True, exclude={"made"}) == {
        "inner": {"size": 4, "names": ["a"]},
        "check": "warn",
        "needed": 1,
    }
    assert outer.model_copy(update={"needed": 2}).needed == 2
    assert outer == pickle.loads(pickle.dumps(outer))
    assert outer != outer.model_copy(update={"needed": 2})


def test_defaults_are_not_shared() -> None:
    first = Inner()
    first.names.append("b")
    assert Inner().names == ["a"]


def test_bounds_are_kept_for_requests() -> None:
    bounds = {name: value for item in Inner.model_fields["size"].metadata for name, value in vars(item).items()}
    assert bounds == {"ge": 1, "le": 9}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"needed": 1, "sizes": 2}, "Outer: unknown sizes; expected some of inner, check"),
        ({}, "Outer: needed is missing"),
    ],
)
def test_a_wrong_or_missing_name_is_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Outer.model_validate(values)


def test_a_section_is_frozen() -> None:
    with pytest.raises(AttributeError, match=r"Inner is frozen: size cannot be set\. Use model_copy"):
        Inner().size = 4
