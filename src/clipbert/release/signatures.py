"""The MLflow signature of a registered model, made from its task's `Serving`.

Outputs may be missing: a row that failed has an `error` and nothing else.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, DataType

from clipbert.tasks.presentation import Serving

ERROR = "error"
# MLflow refuses a whole request for one wrong cell of an array column, and cannot read arrays from CSV. A string column
# passes lists through, and the model checks each row itself.
TYPES: dict[str, Any] = {
    "string": DataType.string,
    "long": DataType.long,
    "double": DataType.double,
    "strings": Array(DataType.string),
    "doubles": Array(DataType.double),
    "options": DataType.string,
}


def signature(serving: Serving, settings: Mapping[str, Any]) -> ModelSignature:
    """Return MLflow's signature of a served model; `settings` holds the defaults of its parameters."""
    outputs = serving.outputs | {ERROR: "string"}
    inputs = [ColSpec(TYPES[kind], name) for name, kind in serving.inputs.items()]
    inputs += [ColSpec(TYPES["double"], name, required=False) for name in serving.segment_columns]
    params = [
        ParamSpec(name, TYPES["long" if spec.kind is int else "double"], settings[name])
        for name, spec in serving.params.items()
    ]
    return ModelSignature(
        inputs=Schema(inputs),
        outputs=Schema([ColSpec(TYPES[kind], name, required=False) for name, kind in outputs.items()]),
        params=ParamSchema(params),
    )


def input_example(serving: Serving) -> pd.DataFrame:
    """Return the example of a request as a table of one row."""
    return pd.DataFrame({name: [value] for name, value in serving.example.items()})
