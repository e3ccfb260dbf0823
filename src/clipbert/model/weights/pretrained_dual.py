"""Pretrained dual encoder that a retrieval training starts from (`model.dual_encoder`)."""

import json
from dataclasses import dataclass
from typing import Any

import transformers

from clipbert.errors import ClipBertError
from clipbert.model.dual_tokenizer import DualTokenizer, load_dual_tokenizer
from clipbert.model.encoder_configs import DUAL_ENCODERS
from clipbert.model.patch_backbone import native_image_size
from clipbert.model.weights.pretrained import UNNAMED, Part, vision_fields
from clipbert.model.weights.sources import is_local, load_weights, normalization, preprocessor, read_config

PARAMETER = "model.dual_encoder"


@dataclass(frozen=True)
class DualPart(Part):
    """Pretrained dual encoder with its tokenizer and the geometry of its frames.

    Attributes:
        resize: how a frame becomes a square, see `ClipBertProcessor`.
    """

    tokenizer: DualTokenizer
    resize: str


def read_dual_encoder(source: str) -> DualPart:
    """Load the CLIP, SigLIP or SigLIP 2 model of `model.dual_encoder`.

    The fields include `image_size`, that of the position embeddings.

    Raises:
        ClipBertError: nothing readable there, another kind of model, a vision model without its pooling head, or
            weights that are missing or mis-shaped.
    """
    local = is_local(PARAMETER, source)
    config = read_config(PARAMETER, source, local)
    kind = config.model_type
    if kind not in DUAL_ENCODERS:
        hint = " A vision encoder alone goes into model.vision." if kind.endswith("vision_model") else ""
        raise ClipBertError(
            f"{PARAMETER}: {source}: its model_type is {kind!r}: expected a dual encoder of images and texts, "
            f"model_type {', '.join(DUAL_ENCODERS)} (docs/how-to/backbones.md).{hint}"
        )
    vision, own = vision_fields(PARAMETER, source, config.vision_config)
    if not getattr(own, "vision_use_head", True):
        raise ClipBertError(
            f"{PARAMETER}: {source}: its vision model has no pooling head (vision_use_head is false), so frames "
            "have no embedding. Choose another checkpoint, or use it as model.vision."
        )
    text = config.text_config
    text_fields = {name: value for name, value in text.to_diff_dict().items() if name not in (*UNNAMED, "model_type")}
    if kind != "clip":
        text_fields |= {"bos_token_id": None, "eos_token_id": None}  # unused, and the defaults exceed the vocabulary
    dual = {"model_type": kind, "text_config": json.loads(json.dumps(text_fields))}
    model, _ = load_weights(
        PARAMETER, source, local, getattr(transformers, DUAL_ENCODERS[kind]), config, lambda name: False
    )
    length = text.max_position_embeddings
    try:
        tokenizer = load_dual_tokenizer(source, length, kind, local_files_only=local, trust_remote_code=False)
    except ClipBertError as error:
        raise ClipBertError(f"{PARAMETER}: {error}") from error
    if len(tokenizer.tokenizer) > text.vocab_size:
        raise ClipBertError(
            f"{PARAMETER}: {source}: its tokenizer has {len(tokenizer.tokenizer)} words and its model "
            f"{text.vocab_size}: these are not of one model. Take both from the same source."
        )
    mean, std, remark = normalization(PARAMETER, source, local, vision["model_type"])
    fields = {
        "vision": vision,
        "dual_encoder": dual,
        "projection_size": config.projection_dim if kind == "clip" else text.projection_size,
        "freeze_batch_norm": False,
        "image_size": native_image_size(vision),
        "image_mean": mean,
        "image_std": std,
    }
    crops = bool(preprocessor(PARAMETER, source, local).get("do_center_crop", kind == "clip"))
    resize = "crop" if crops else "stretch"
    return DualPart(source, fields, _weights(model), f"{length} text tokens; {remark}", tokenizer, resize)


def _weights(model: Any) -> dict[str, Any]:
    """Return the weights of transformers' dual encoder by their names in `ClipBertForRetrieval`."""
    ours = {"vision_model.": "clipbert.vision.backbone.model.", "text_model.": "contrast.text_encoder."}
    weights = {}
    for name, value in model.state_dict().items():
        prefix = next((prefix for prefix in ours if name.startswith(prefix)), "")
        renamed = ours[prefix] + name.removeprefix(prefix) if prefix else f"contrast.{name}"
        weights[renamed] = value.reshape(()) if name.startswith("logit_") else value
    return weights
