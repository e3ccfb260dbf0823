"""What a registered model of each task takes and gives: the signature MLflow checks and its UI shows."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, DataType

STRING, DOUBLE, LONG = DataType.string, DataType.double, DataType.long
VIDEO, IMAGE = "data/videos/example.mp4", "data/images/example.jpg"


@dataclass(frozen=True)
class Served:
    """The columns in and out, each with its type, and one row to try."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    example: dict[str, Any]

    def signature(self) -> ModelSignature:
        """The same as MLflow has it."""
        return ModelSignature(
            inputs=Schema([ColSpec(kind, name) for name, kind in self.inputs.items()]),
            outputs=Schema([ColSpec(kind, name) for name, kind in self.outputs.items()]),
        )

    def input_example(self) -> pd.DataFrame:
        """The example as a table of one row."""
        return pd.DataFrame({name: [value] for name, value in self.example.items()})


SERVED = {
    "retrieval": Served(
        {"video": STRING, "text": STRING},
        {"score": DOUBLE},
        {"video": VIDEO, "text": "a red square moves to the left"},
    ),
    "open_qa": Served(
        {"video": STRING, "question": STRING},
        {"answer": STRING, "confidence": DOUBLE},
        {"video": VIDEO, "question": "what color is the square?"},
    ),
    "multiple_choice": Served(
        {"video": STRING, "question": STRING, "options": Array(STRING)},
        {"answer": STRING, "option": LONG, "confidence": DOUBLE},
        {"video": VIDEO, "question": "how does the square move?", "options": ["it moves left", "it moves right"]},
    ),
    "captioning": Served({"video": STRING}, {"caption": STRING, "score": DOUBLE}, {"video": VIDEO}),
    "image_qa": Served(
        {"image": STRING, "question": STRING},
        {"answer": STRING, "confidence": DOUBLE},
        {"image": IMAGE, "question": "what color is the square?"},
    ),
    "pretrain": Served({"image": STRING, "text": STRING}, {"score": DOUBLE}, {"image": IMAGE, "text": "a red square"}),
}
