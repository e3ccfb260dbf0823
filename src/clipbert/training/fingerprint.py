"""Fingerprint of a training: the parameters and inputs that decide its result."""

from collections.abc import Mapping
from typing import Any

from clipbert.config.schema import ModelParams
from clipbert.config.training import RUNTIME_ONLY
from clipbert.files.atomic import sha256_file
from clipbert.model.weights.init_from import digest
from clipbert.project import Project

# The number of clips of evaluation is stored with the model and does not change its weights.
IGNORED = frozenset({*(f"train.{name}" for name in RUNTIME_ONLY), "evaluate.clips"})


def fingerprint(project: Project, parameters: Mapping[str, Any], model: ModelParams) -> dict[str, Any]:
    """Return the parameters and checksums that must be equal for a checkpoint to be resumed.

    Args:
        project: the project whose manifest and frame cache are the training data.
        parameters: the parameters of the training by dotted path (`Params.training_parameters`).
        model: section model, whose folders of initial weights count by their contents.
    """
    found = {name: value for name, value in parameters.items() if name not in IGNORED}
    found |= {path.name: sha256_file(path) for path in sorted(project.manifest.glob("*.parquet"))}
    sources = {
        "init_from": model.start_from,
        "vision": model.vision_from,
        "text": model.text_from,
        "dual_encoder": model.dual_encoder_from,
    }
    for name, start in sources.items():
        # a hub id has no folder: its parameter identifies it
        if start is not None and (name == "init_from" or (project.root / start).is_dir()):
            found[f"the model of model.{name}"] = digest(project.root / start, f"model.{name}")
    return {**found, "frame cache": sha256_file(project.frames / "index.arrow")}
