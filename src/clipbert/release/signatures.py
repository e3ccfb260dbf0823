"""What a registered model of each task takes and returns: the signature that MLflow checks and its UI shows.

Outputs may be missing: a row that failed has an `error` and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, DataType

from clipbert.config.schema import EvaluateParams
from clipbert.config.tasks import CaptioningParams, Section

STRING, DOUBLE, LONG = DataType.string, DataType.double, DataType.long
VIDEO, IMAGE = "data/videos/example.mp4", "data/images/example.jpg"
ERROR = "error"
TOP_K = 5
MAX_TOP_K = 10_000


@dataclass(frozen=True)
class ServedParam:
    """A parameter of a request: its type and its allowed range, both ends included."""

    kind: Any
    low: float
    high: float

    @classmethod
    def of(cls, section: type[Section], name: str) -> "ServedParam":
        """Return the parameter with the type and range that params.yaml allows."""
        info = section.model_fields[name]
        bounds = {key: getattr(item, key) for item in info.metadata for key in ("ge", "le") if hasattr(item, key)}
        return cls(LONG if info.annotation is int else DOUBLE, bounds["ge"], bounds["le"])


CLIPS = {"clips": ServedParam.of(EvaluateParams, "clips")}
TOP = {"top_k": ServedParam(LONG, 1, MAX_TOP_K)}
SEARCH = {name: ServedParam.of(CaptioningParams, name) for name in CaptioningParams().search()}


@dataclass(frozen=True)
class Served:
    """The columns in and out with their types, one row to try, and the parameters beside `clips`."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    example: dict[str, Any]
    params: dict[str, ServedParam] = field(default_factory=lambda: dict(CLIPS))

    @property
    def media(self) -> str:
        """The name of the column that names the file."""
        return next(iter(self.inputs))

    def signature(self, settings: Mapping[str, Any]) -> ModelSignature:
        """Return MLflow's signature; `settings`: the defaults of the parameters."""
        return ModelSignature(
            inputs=Schema([ColSpec(kind, name) for name, kind in self.inputs.items()]),
            outputs=Schema(
                [ColSpec(kind, name, required=False) for name, kind in (self.outputs | {ERROR: STRING}).items()]
            ),
            params=ParamSchema([ParamSpec(name, spec.kind, settings[name]) for name, spec in self.params.items()]),
        )

    def input_example(self) -> pd.DataFrame:
        """Return the example as a table of one row."""
        return pd.DataFrame({name: [value] for name, value in self.example.items()})


ANSWER = {"answer": STRING, "confidence": DOUBLE, "top_answers": Array(STRING), "top_confidences": Array(DOUBLE)}
SERVED = {
    "retrieval": Served(
        {"video": STRING, "text": STRING},
        {"score": DOUBLE},
        {"video": VIDEO, "text": "a red square moves to the left"},
    ),
    "open_qa": Served(
        {"video": STRING, "question": STRING},
        ANSWER,
        {"video": VIDEO, "question": "what color is the square?"},
        CLIPS | TOP,
    ),
    # MLflow refuses a whole request for one wrong cell of an array column, and cannot read arrays from CSV. A string
    # column passes lists through, and the model checks each row itself.
    "multiple_choice": Served(
        {"video": STRING, "question": STRING, "options": STRING},
        {"answer": STRING, "option": LONG, "confidence": DOUBLE, "option_confidences": Array(DOUBLE)},
        {"video": VIDEO, "question": "how does the square move?", "options": '["it moves left", "it moves right"]'},
    ),
    "captioning": Served({"video": STRING}, {"caption": STRING, "score": DOUBLE}, {"video": VIDEO}, CLIPS | SEARCH),
    "image_qa": Served(
        {"image": STRING, "question": STRING},
        ANSWER,
        {"image": IMAGE, "question": "what color is the square?"},
        CLIPS | TOP,
    ),
    "pretrain": Served({"image": STRING, "text": STRING}, {"score": DOUBLE}, {"image": IMAGE, "text": "a red square"}),
}
