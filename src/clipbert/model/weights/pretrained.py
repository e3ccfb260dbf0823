"""Pretrained parts that a training starts from: a vision backbone and a text encoder, each a folder or a hub id."""

import json
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import BertForPreTraining, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from clipbert.errors import ClipBertError
from clipbert.model.configuration import BACKBONES, BERT_FIELDS, backbone_config
from clipbert.model.encoder_configs import DUAL_ENCODERS, PATCH_ENCODERS
from clipbert.model.patch_backbone import native_image_size
from clipbert.model.tokenizer import load_tokenizer
from clipbert.model.weights.sources import is_local, load_weights, normalization, read_config, square_side

NORMS = "hidden_states_norms."  # of a backbone's feature maps: classifiers, which most checkpoints are, have none
UNNAMED = ("architectures", "dtype", "id2label", "label2id", "out_indices", "stage_names", "transformers_version")
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")  # those that params.yaml may name


@dataclass(frozen=True)
class Part:
    """Pretrained part: fields of `ClipBertConfig`, weights named as in a task model, and a remark for the log."""

    source: str
    fields: dict[str, Any]
    weights: dict[str, Tensor]
    remark: str

    def give(self, model: nn.Module) -> int:
        """Copy the weights that the model has into it; return how many those are."""
        state = model.state_dict()
        ours = {name: value for name, value in self.weights.items() if name in state}
        with torch.no_grad():
            for name, value in ours.items():
                state[name].copy_(value)
        return len(ours)


@dataclass(frozen=True)
class TextPart(Part):
    """Pretrained text encoder with its tokenizer."""

    tokenizer: PreTrainedTokenizerFast


def read_vision(source: str, parameter: str = "model.vision") -> Part:
    """Load the vision model of `model.vision` with its pixel normalization.

    Args:
        source: folder or hub id; of a dual encoder, its vision half is loaded.
        parameter: name of the parameter, for messages.

    Raises:
        ClipBertError: the source cannot be read, its model type has neither feature maps nor patch tokens, or weights
            are missing or mis-shaped.
    """
    local = is_local(parameter, source)
    config = read_config(parameter, source, local)
    if config.model_type in (*PATCH_ENCODERS, *DUAL_ENCODERS):
        return _read_patch_encoder(parameter, source, local, config)
    if config.model_type not in BACKBONES:
        raise ClipBertError(
            f"{parameter}: {source}: its model_type is {config.model_type!r}, which has neither feature maps for "
            "transformers' AutoBackbone nor patch tokens. Choose one of "
            f"{', '.join(sorted([*BACKBONES, *PATCH_ENCODERS, *DUAL_ENCODERS]))} (docs/how-to/backbones.md)."
        )
    fields, kept = vision_fields(parameter, source, config)
    architecture = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    backbone, fresh = load_weights(parameter, source, local, architecture, kept, lambda name: name.startswith(NORMS))
    mean, std, remark = normalization(parameter, source, local)
    side = square_side(parameter, source, local)
    if fresh:
        remark += f"; fresh: {', '.join(fresh)}"
    frozen = any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    weights = {f"clipbert.vision.backbone.{name}": value for name, value in backbone.state_dict().items()}
    chosen = {"vision": fields, "freeze_batch_norm": frozen, "image_mean": mean, "image_std": std}
    if side is not None:
        chosen["image_size"] = side
    return Part(source, chosen, weights, remark)


def _read_patch_encoder(parameter: str, source: str, local: bool, config: PreTrainedConfig) -> Part:
    """Load a vision transformer with patch tokens, alone or from a dual encoder."""
    own = config.vision_config if config.model_type in DUAL_ENCODERS else config
    fields, _ = vision_fields(parameter, source, own)
    architecture = getattr(transformers, (PATCH_ENCODERS | DUAL_ENCODERS)[config.model_type])
    model, _ = load_weights(
        parameter, source, local, architecture, config, lambda name: name.startswith(("pooler.", "head."))
    )
    encoder = model.vision_model if config.model_type in DUAL_ENCODERS else model
    weights = {f"clipbert.vision.backbone.model.{name}": value for name, value in encoder.state_dict().items()}
    mean, std, remark = normalization(parameter, source, local, fields["model_type"])
    chosen = {"vision": fields, "freeze_batch_norm": False, "image_mean": mean, "image_std": std}
    chosen["image_size"] = native_image_size(fields)
    return Part(source, chosen, weights, f"patch tokens; {remark}")


def vision_fields(parameter: str, source: str, config: PreTrainedConfig) -> tuple[dict[str, Any], PreTrainedConfig]:
    """Return `ClipBertConfig.vision` for the configuration of a vision model, and the configuration made from it.

    Raises:
        ClipBertError: it is not a valid configuration.
    """
    fields = {name: value for name, value in config.to_diff_dict().items() if name not in UNNAMED}
    fields = json.loads(json.dumps(fields)) | {"model_type": config.model_type}
    fields.pop("out_features", None)
    try:
        return fields, backbone_config(fields)
    except ValueError as error:
        raise ClipBertError(f"{parameter}: {source}: {error}") from error


def read_text(source: str) -> TextPart:
    """Load the BERT encoder of `model.text`: sizes, weights and tokenizer.

    Raises:
        ClipBertError: nothing readable there, no BERT encoder, weights that are missing or mis-shaped, or a tokenizer
            with more words than the model.
    """
    parameter = "model.text"
    local = is_local(parameter, source)
    config = read_config(parameter, source, local)
    kind, positions = config.model_type, getattr(config, "position_embedding_type", None)
    if kind != "bert" or positions not in (None, "absolute") or config.is_decoder:
        what = f"its model_type is {kind!r}" if kind != "bert" else "it is a decoder or has relative positions"
        raise ClipBertError(
            f"{parameter}: {source}: {what}: expected an encoder of BERT's architecture, model_type 'bert' with "
            "absolute positions (bert-base-uncased, all-MiniLM-L6-v2, bert-tiny)."
        )

    def may_miss(name: str) -> bool:
        return name.startswith(("cls.", "bert.pooler.")) or name.endswith("position_ids")

    model, fresh = load_weights(parameter, source, local, BertForPreTraining, config, may_miss)
    try:
        tokenizer = load_tokenizer(source, local_files_only=local, trust_remote_code=False)
    except ClipBertError as error:
        raise ClipBertError(f"{parameter}: {error}") from error
    if len(tokenizer) > config.vocab_size:
        raise ClipBertError(
            f"{parameter}: {source}: its tokenizer has {len(tokenizer)} words and its model {config.vocab_size}: these "
            "are not of one model. Take both from the same source."
        )
    unread = (*fresh, "cls.seq_relationship", "cls.predictions.decoder")  # the decoder is the word embeddings
    weights = {
        f"clipbert.{name.removeprefix('bert.')}" if name.startswith("bert.") else name: value
        for name, value in model.state_dict().items()
        if not name.startswith(unread)
    }
    fields = {name: getattr(config, name) for name in BERT_FIELDS}
    left = dict.fromkeys(name.split(".")[1] for name in fresh if name != "cls.seq_relationship")
    remark = f"fresh where a task has them: {', '.join(left)}" if left else "with its head for masked words"
    return TextPart(source, fields, weights, remark, tokenizer)


def without_text_sizes(overrides: dict[str, Any], text: TextPart) -> dict[str, Any]:
    """Return the overrides without the sizes of the text encoder.

    Raises:
        ClipBertError: an override differs from the size of the encoder.
    """
    for name in SIZES:
        if name in overrides and overrides[name] != text.fields[name]:
            raise ClipBertError(
                f"params.yaml: model.{name} = {overrides[name]}, but model.text ({text.source}) has "
                f"{text.fields[name]}: its weights fit no other. Set model.{name} to null, or take another model.text."
            )
    return {name: value for name, value in overrides.items() if name not in (*SIZES, "intermediate_size")}


def check_grid(model: Any, source: str, parameter: str = "vision") -> tuple[int, int]:
    """Return rows and columns of the grid of `config.image_size` pixels, from a forward pass of a black clip.

    Args:
        model: a task's model.
        source: of the backbone, for messages.
        parameter: of section `model`, for messages.

    Raises:
        ClipBertError: the frames are too small for a cell, too large for the learned rows and columns, or not
            accepted by the backbone.
    """
    size, frames = model.config.image_size, model.config.frames_per_clip
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            black = torch.zeros(frames, 3, size, size, dtype=torch.uint8)
            grid = model.clipbert.vision(black)
            model.clipbert.visual_embeddings(grid[None])
    except (ValueError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise ClipBertError(
            f"model.{parameter}: {source} with model.image_size = {size}: {reason}. Set model.image_size to what "
            "the backbone takes, and frames.size to at least that."
        ) from error
    finally:
        model.train(was_training)
    return int(grid.shape[1]), int(grid.shape[2])
