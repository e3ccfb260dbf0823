"""Sections of parameters without pydantic, for machines that have only what a training needs.

Defaults, names and types are those of the schema; values are not checked and must come from a machine with pydantic
(`params.yaml` is not read here). An unknown name is an error.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, get_origin, get_type_hints

MISSING: Any = object()


class ValidationError(ValueError):
    """Raised by pydantic alone: no value is checked here."""

    def errors(self) -> list[dict[str, Any]]:
        """Return no problems."""
        return []


class FieldInfo:
    """A parameter: its type, default, bounds, and the name that it has in params.yaml."""

    def __init__(
        self, default: Any = MISSING, *, default_factory: Any = None, alias: str | None = None, **bounds: Any
    ) -> None:
        self.default, self.default_factory, self.alias = default, default_factory, alias
        self.annotation: Any = None
        self.metadata = [SimpleNamespace(**{name: value}) for name, value in bounds.items()]

    @classmethod
    def from_annotated_attribute(cls, annotation: Any, default: Any) -> "FieldInfo":
        """Return the field of a class attribute with this type and default."""
        field = copy.copy(default) if isinstance(default, FieldInfo) else cls(default)
        field.annotation = annotation
        return field

    def make_default(self) -> Any:
        """Return the default value; `MISSING` if the parameter has none."""
        if self.default_factory is not None:
            return self.default_factory()
        return copy.copy(self.default) if isinstance(self.default, dict | list) else self.default


def Field(default: Any = MISSING, *, description: str = "", **settings: Any) -> Any:
    """Return a field; bounds are kept and not checked."""
    return FieldInfo(default, **settings)


def ConfigDict(**settings: Any) -> dict[str, Any]:
    """Return the settings of a class, which have no effect here: every section is frozen and knows its names."""
    return settings


def _not_run(*_: Any, **__: Any) -> Callable[[Any], Any]:
    """Return a decorator that leaves a check unused."""
    return lambda function: function


field_validator = model_validator = _not_run


class BaseModel:
    """A frozen section: attributes with defaults, and sections in it."""

    model_fields: ClassVar[dict[str, FieldInfo]] = {}

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.model_fields = {name: copy.copy(field) for name, field in cls.model_fields.items()}
        own = vars(cls).get("__annotations__", {})
        hints = get_type_hints(cls, include_extras=True) if own else {}
        for name in own:
            if get_origin(hints[name]) is not ClassVar and hints[name] is not ClassVar and name != "model_config":
                default = vars(cls).get(name, MISSING)
                cls.model_fields[name] = FieldInfo.from_annotated_attribute(hints[name], default)

    def __init__(self, **values: Any) -> None:
        """
        Raises:
            ValueError: an unknown name, or none for a parameter without a default.
        """
        known = {field.alias or name: name for name, field in self.model_fields.items()}
        unknown = sorted(values.keys() - known.keys())
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: unknown {', '.join(unknown)}; expected some of {', '.join(known)}"
            )
        for key, name in known.items():
            field = self.model_fields[name]
            value = values[key] if key in values else field.make_default()
            if value is MISSING:
                raise ValueError(f"{type(self).__name__}: {key} is missing.")
            if isinstance(value, Mapping) and _is_section(field.annotation):
                value = field.annotation(**value)
            self.__dict__[name] = value

    @classmethod
    def model_validate(cls, values: Mapping[str, Any]) -> Any:
        """Return the section with these values and the defaults of the others."""
        return cls(**values)

    @classmethod
    def model_rebuild(cls, force: bool = False) -> None:
        """Do nothing: fields are read when a section is made."""

    def model_copy(self, update: Mapping[str, Any] | None = None) -> Any:
        """Return the section with other values for some names."""
        copied = copy.copy(self)
        copied.__dict__.update(update or {})
        return copied

    def model_dump(
        self,
        include: set[str] | None = None,
        exclude: set[str] | None = None,
        exclude_none: bool = False,
        by_alias: bool = False,
    ) -> dict[str, Any]:
        """Return the values by name, those of sections as dictionaries."""
        dumped = {}
        for name, value in self:
            if name in (exclude or ()) or (include is not None and name not in include):
                continue
            if value is not None or not exclude_none:
                key = (by_alias and self.model_fields[name].alias) or name
                section = isinstance(value, BaseModel)
                dumped[key] = value.model_dump(exclude_none=exclude_none, by_alias=by_alias) if section else value
        return dumped

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter([(name, self.__dict__[name]) for name in self.model_fields if name in self.__dict__])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set. Use model_copy(update=...).")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self)})"


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
