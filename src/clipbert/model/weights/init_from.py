"""Start of a training from a model folder (`model.init_from`): tokenizer, sizes, and weights of the same names."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.processor import ClipBertProcessor
from clipbert.model.weights.load import REMEDY, load

# Fields that belong to a task or to the use of a model; all others must fit the weights.
FREE = ("clips", "frames_per_clip", "frame_fusion", "max_text_length", "image_size", "score_aggregation")
DERIVED = ("intermediate_size",)  # of hidden_size, which is compared itself
OF_THE_TASK = (
    "answers",
    "answer_loss",
    "retrieval_loss",
    "ranking_margin",
    "projection_size",
    "cross_encoder",
    "architectures",
)
OF_THE_DUAL_ENCODER = ("dual_encoder", "projection_size")


@dataclass(frozen=True)
class Start:
    """Model folder that a training starts from."""

    folder: Path
    model: PreTrainedModel
    processor: ClipBertProcessor

    @classmethod
    def read(cls, folder: Path) -> "Start":
        """Load the model and the processor of a folder.

        Raises:
            ClipBertError: a file is missing or unreadable, or the tokenizer has more words than the model.
        """
        if not folder.is_dir():
            raise ClipBertError(
                f"model.init_from: {folder}: not found: expected a model folder. Train or convert it first, or set "
                "model.init_from to null to start from scratch."
            )
        model, processor = load(folder), ClipBertProcessor.from_pretrained(folder)
        if len(processor.tokenizer) > model.config.vocab_size:
            raise ClipBertError(
                f"model.init_from: {folder}: its tokenizer has {len(processor.tokenizer)} words and its model "
                f"{model.config.vocab_size}: they do not belong to the same model. {REMEDY}"
            )
        return cls(folder, model, processor)

    def config(
        self, overrides: dict[str, Any], task_fields: dict[str, Any], uses_dual_encoder: bool = False
    ) -> ClipBertConfig:
        """Return the stored configuration with the overrides and the fields of the task.

        Args:
            overrides: fields of section `model` of params.yaml.
            task_fields: fields that the task sets.
            uses_dual_encoder: whether the task keeps a pretrained dual encoder; otherwise only its vision half is kept.

        Raises:
            ClipBertError: an override does not fit the stored weights.
            ValueError: an override or a task field is out of its range.
        """
        stored = self.model.config.to_dict()
        for name, value in overrides.items():
            if name not in FREE + DERIVED and stored[name] != value:
                raise ClipBertError(
                    f"params.yaml: model.{name} = {value!r}, but model.init_from ({self.folder}) has {stored[name]!r}: "
                    f"its weights fit no other. Set model.{name} to null, or start from another model."
                )
        left_out = (*OF_THE_TASK, "dual_encoder", "video_head")
        fixed = {name: value for name, value in stored.items() if name not in left_out}
        if stored.get("dual_encoder") is not None and uses_dual_encoder:
            task_fields = task_fields | {name: stored[name] for name in OF_THE_DUAL_ENCODER}
        chosen = {name: value for name, value in overrides.items() if name in FREE}
        return ClipBertConfig.from_dict(fixed | chosen | task_fields)

    def give(self, model: PreTrainedModel) -> list[str]:
        """Copy every weight of the same name and shape into `model`; return the names of all others."""
        given, fresh = self.model.state_dict(), []
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name in given and given[name].shape == value.shape:
                    value.copy_(given[name])
                else:
                    fresh.append(name)
        return fresh


def parts(names: Iterable[str]) -> str:
    """Return the modules that weights belong to, each once, as text: `classifier.0, classifier.2`."""
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def digest(folder: Path, parameter: str = "model.init_from") -> str:
    """Return the SHA-256 of the weights, configuration, tokenizer and processor in the folder of a parameter.

    Raises:
        ClipBertError: there is no such folder.
    """
    kept = (".json", ".safetensors", ".bin", ".txt", ".model")
    files = sorted(path for path in folder.rglob("*") if path.suffix in kept and path.is_file())
    if not files:
        raise ClipBertError(
            f"{parameter}: {folder}: not found: expected a model folder. Train or convert it first, or set "
            f"{parameter} to null to start from scratch."
        )
    listed = json.dumps([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])
    return hashlib.sha256(listed.encode()).hexdigest()
