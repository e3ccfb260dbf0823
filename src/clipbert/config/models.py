"""What the sections of parameters are made of: pydantic, or `unvalidated` on a machine that does not have it."""

try:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
    from pydantic.fields import FieldInfo
except ModuleNotFoundError:
    from clipbert.config.unvalidated import (  # type: ignore[assignment, no-redef]
        BaseModel,
        ConfigDict,
        Field,
        FieldInfo,
        ValidationError,
        field_validator,
        model_validator,
    )

__all__ = ["BaseModel", "ConfigDict", "Field", "FieldInfo", "ValidationError", "field_validator", "model_validator"]
