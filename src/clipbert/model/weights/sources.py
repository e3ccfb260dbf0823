"""Reading of a pretrained source, a folder or a hub id; each error names the parameter, the source and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from clipbert.errors import ClipBertError, ModelFolderError
from clipbert.model.weights.checksums import check_model
from clipbert.model.weights.load import quiet

IMAGENET = ("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ("ViT and SigLIP", (0.5,) * 3, (0.5,) * 3)
CLIP = ("CLIP", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
NORMALIZATIONS = {"vit": HALF, "clip_vision_model": CLIP, "siglip_vision_model": HALF, "siglip2_vision_model": HALF}
PREPROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"


def is_local(parameter: str, source: str) -> bool:
    """Return whether a source is a local folder; otherwise it must be a hub id.

    Raises:
        ClipBertError: the source looks like a path but is not a folder, or a file of the folder is damaged.
    """
    if Path(source).is_dir():
        try:
            check_model(Path(source))
        except ModelFolderError as error:
            raise ClipBertError(f"{parameter}: {error}") from error
        return True
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or Path(source).exists() or not source.strip():
        raise ClipBertError(
            f"{parameter}: {source}: not found: expected a folder written by save_pretrained or `clipbert convert`, or "
            "the id of a model on the hub (owner/name)."
        )
    return False


def read_config(parameter: str, source: str, local: bool) -> PreTrainedConfig:
    """Return the configuration of a source.

    Raises:
        ClipBertError: it cannot be read.
    """
    try:
        with quiet():
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                source, local_files_only=local, trust_remote_code=False
            )
    except Exception as error:  # transformers, the hub client and strict dataclasses raise different types
        raise unreadable(parameter, source, local, "config.json", error) from error
    return config


def load_weights(
    parameter: str,
    source: str,
    local: bool,
    architecture: type[PreTrainedModel],
    config: PreTrainedConfig,
    may_miss: Callable[[str], bool],
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model with the weights of the source, and the modules that stay randomly initialized.

    Args:
        parameter, source, local: as in `is_local`, and what it returned.
        architecture: class of the model.
        config: its configuration.
        may_miss: whether the source may lack a weight.

    Raises:
        ClipBertError: the weights cannot be read, or some are missing or mis-shaped.
    """
    try:
        with quiet():
            model, info = architecture.from_pretrained(
                source,
                config=config,
                local_files_only=local,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
    except (SafetensorError, OSError, ValueError, RuntimeError, ImportError) as error:
        raise unreadable(parameter, source, local, "the weights", error) from error
    missing = sorted(info["missing_keys"])
    mismatched = sorted(name if isinstance(name, str) else name[0] for name in info["mismatched_keys"])
    for problem, names in (("missing", [n for n in missing if not may_miss(n)]), ("mis-shaped", mismatched)):
        if names:
            raise ClipBertError(
                f"{parameter}: {source}: {len(names)} weights of {architecture.__name__} are {problem}: "
                f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}. Its config.json and weights do not "
                "belong together: save or download both again."
            )
    return model.eval(), list(dict.fromkeys(name.rpartition(".")[0] for name in missing))


def unreadable(parameter: str, source: str, local: bool, what: str, error: Exception) -> ClipBertError:
    """Return the error for a part of a source that cannot be read."""
    first = str(error).strip().partition("\n")[0]
    if local:
        remedy = "expected a folder written by save_pretrained or `clipbert convert`: save it again."
    else:
        remedy = (
            "No such folder here, and the hub gave no such model: check the id and the network (HF_HUB_OFFLINE), or "
            "download it on another machine and name its folder."
        )
    return ClipBertError(f"{parameter}: {source}: {what} cannot be read ({first}). {remedy}")


def preprocessor(parameter: str, source: str, local: bool) -> dict[str, Any]:
    """Return the settings of the image processor of a source; empty without its file.

    Raises:
        ClipBertError: the file is not a JSON object.
    """
    try:
        for name in (PREPROCESSOR_FILE, PROCESSOR_FILE):  # transformers 5 writes the second one for CLIP and SigLIP
            path = cached_file(source, name, local_files_only=local, _raise_exceptions_for_missing_entries=False)
            if path is not None:
                stored: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
                return dict(stored.get("image_processor", stored))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise unreadable(parameter, source, local, name, error) from error
    return {}


def square_side(parameter: str, source: str, local: bool) -> int | None:
    """Return the side of the images of a source; None where its file names no equal height and width.

    Other sizes are those of a crop.
    """
    size = preprocessor(parameter, source, local).get("size")
    height, width = (size.get("height"), size.get("width")) if isinstance(size, dict) else (None, None)
    try:
        return int(height) if height is not None and height == width else None
    except (ValueError, TypeError) as error:
        raise unreadable(parameter, source, local, PREPROCESSOR_FILE, error) from error


def normalization(parameter: str, source: str, local: bool, kind: str = "") -> tuple[list[float], list[float], str]:
    """Return mean and standard deviation on the scale of 0 to 255, and a remark on their source.

    Args:
        kind: `model_type` of the vision model, which decides the normalization of a source without a file for it.
    """
    stored = preprocessor(parameter, source, local)
    family, default_mean, default_std = NORMALIZATIONS.get(kind, IMAGENET)
    try:
        # Values are on a scale from 0 to 1 unless the file sets another rescale_factor or no rescaling.
        scale = 1 / float(stored.get("rescale_factor") or 1 / 255) if stored.get("do_rescale", True) else 1.0
        normalized = stored.get("do_normalize", True)
        mean = stored.get("image_mean") or default_mean if normalized else (0.0,) * 3
        std = stored.get("image_std") or default_std if normalized else (1.0,) * 3
        found = [round(scale * float(v), 6) for v in mean], [round(scale * float(v), 6) for v in std]
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise unreadable(parameter, source, local, PREPROCESSOR_FILE, error) from error
    return *found, f"its own normalization ({PREPROCESSOR_FILE})" if stored else f"normalization of {family}"
