"""Complete parameter files for tests that care about a few parameters."""

from pathlib import Path

from clipbert.config.help import complete_file
from clipbert.config.schema import Params
from clipbert.config.yaml_io import parse_yaml


def complete(text: str = "") -> str:
    """The text of a complete params.yaml: `text`, which is YAML, and the defaults of everything else."""
    return complete_file(Params.model_validate(parse_yaml(text) or {}))


def write_params(folder: Path, text: str = "") -> Path:
    """Write a complete params.yaml into `folder`; returns its path."""
    path = folder / "params.yaml"
    path.write_text(complete(text), encoding="utf-8")
    return path
