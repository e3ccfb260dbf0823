"""A training that starts from a model folder: its tokenizer, its sizes, and the weights that both models have."""

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

# What belongs to a task or to how a model is used; everything else of a start's configuration fits its weights.
FREE = ("clips", "frames_per_clip", "frame_fusion", "max_text_length", "image_size", "score_aggregation")
DERIVED = ("intermediate_size",)  # of hidden_size, which is compared itself
OF_THE_TASK = ("answers", "answer_loss", "retrieval_loss", "ranking_margin", "projection_size", "architectures")


@dataclass(frozen=True)
class Start:
    """A model folder that a training starts from."""

    folder: Path
    model: PreTrainedModel
    processor: ClipBertProcessor

    @classmethod
    def read(cls, folder: Path) -> "Start":
        """Model and tokenizer of a folder.

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
                f"{model.config.vocab_size}: these are not of one model. {REMEDY}"
            )
        return cls(folder, model, processor)

    def config(self, overrides: dict[str, Any], task_fields: dict[str, Any]) -> ClipBertConfig:
        """The start's configuration, with the overrides that leave its weights usable and the task's own fields.

        Raises:
            ClipBertError: an override asks for other sizes than the start's.
            ValueError: an override or a task field is out of its range.
        """
        stored = self.model.config.to_dict()
        for name, value in overrides.items():
            if name not in FREE + DERIVED and stored[name] != value:
                raise ClipBertError(
                    f"params.yaml: model.{name} = {value!r}, but model.init_from ({self.folder}) has {stored[name]!r}: "
                    f"its weights fit no other. Set model.{name} to null, or start from another model."
                )
        fixed = {name: value for name, value in stored.items() if name not in OF_THE_TASK}
        chosen = {name: value for name, value in overrides.items() if name in FREE}
        return ClipBertConfig.from_dict(fixed | chosen | task_fields)

    def give(self, model: PreTrainedModel) -> list[str]:
        """Copy every weight of the same name and shape into `model`; the names of those left as they were drawn."""
        given, fresh = self.model.state_dict(), []
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name in given and given[name].shape == value.shape:
                    value.copy_(given[name])
                else:
                    fresh.append(name)
        return fresh


def parts(names: Iterable[str]) -> str:
    """Names of weights as the modules they belong to, each once: `classifier.0, classifier.2`."""
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def digest(folder: Path, parameter: str = "model.init_from") -> str:
    """SHA-256 of what a training takes from the folder of a parameter: weights, configuration, tokenizer, processor.

    Raises:
        ClipBertError: there is no such folder.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors", ".bin", ".txt"))
    if not files:
        raise ClipBertError(
            f"{parameter}: {folder}: not found: expected a model folder. Train or convert it first, or set "
            f"{parameter} to null to start from scratch."
        )
    listed = json.dumps([[path.name, sha256_file(path)] for path in files])
    return hashlib.sha256(listed.encode()).hexdigest()
