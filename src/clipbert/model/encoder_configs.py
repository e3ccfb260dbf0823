"""Kinds of vision transformers and dual encoders that have no AutoBackbone, and their configurations."""

from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Vision transformers whose patch tokens are the grid (`clipbert.model.patch_backbone`), with their class.
PATCH_ENCODERS = {
    "vit": "ViTModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
}
# Dual encoders of images and texts, with their class; the vision half is f"{kind}_vision_model".
DUAL_ENCODERS = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}


def dual_text_config(dual: dict[str, Any]) -> PreTrainedConfig:
    """Return the transformers configuration of the text half of `ClipBertConfig.dual_encoder`.

    Raises:
        ValueError: a field that this kind of encoder does not accept.
    """
    kind = f"{dual['model_type']}_text_model"
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[kind](**dual.get("text_config", {}))
    except Exception as error:  # the checks of transformers raise many types
        raise ValueError(f"dual_encoder.text_config: not a configuration of {kind} ({error}).") from error
    return config


def patch_size(config: PreTrainedConfig) -> int:
    """Return the side of a square patch of a vision transformer in pixels.

    Raises:
        ValueError: patches that are not square.
    """
    sides = [config.patch_size] if isinstance(config.patch_size, int) else list(config.patch_size)
    if len(set(sides)) != 1:
        raise ValueError(f"vision.patch_size is {config.patch_size}: expected square patches.")
    return int(sides[0])
