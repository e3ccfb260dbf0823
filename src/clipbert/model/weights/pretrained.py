"""Pretrained parts that a training starts from: a vision backbone and a text encoder, each a folder or a hub id."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, BertForPreTraining, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING
from transformers.utils import cached_file

from clipbert.errors import ClipBertError, ModelFolderError
from clipbert.model.configuration import BACKBONES, BERT_FIELDS, backbone_config
from clipbert.model.tokenizer import load_tokenizer
from clipbert.model.weights.checksums import check_model
from clipbert.model.weights.load import quiet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSOR_FILE = "preprocessor_config.json"
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


def read_vision(source: str) -> Part:
    """Load the backbone of `model.vision` with its pixel normalization.

    Raises:
        ClipBertError: the source cannot be read, its model type has no feature maps, or weights are missing or
            mis-shaped.
    """
    parameter = "model.vision"
    local = _is_local(parameter, source)
    config = _config(parameter, source, local)
    if config.model_type not in BACKBONES:
        raise ClipBertError(
            f"{parameter}: {source}: its model_type is {config.model_type!r}, of which transformers' AutoBackbone has "
            f"no feature maps. Choose one of {', '.join(sorted(BACKBONES))} (docs/how-to/backbones.md)."
        )
    fields = {name: value for name, value in config.to_diff_dict().items() if name not in UNNAMED}
    fields = json.loads(json.dumps(fields)) | {"model_type": config.model_type}
    fields.pop("out_features", None)
    try:
        kept = backbone_config(fields)
    except ValueError as error:
        raise ClipBertError(f"{parameter}: {source}: {error}") from error
    architecture = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    backbone, fresh = _weights(parameter, source, local, architecture, kept, lambda name: name.startswith(NORMS))
    mean, std, side, remark = _preprocessing(parameter, source, local)
    if fresh:
        remark += f"; fresh: {', '.join(fresh)}"
    frozen = any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    weights = {f"clipbert.vision.backbone.{name}": value for name, value in backbone.state_dict().items()}
    chosen = {"vision": fields, "freeze_batch_norm": frozen, "image_mean": mean, "image_std": std}
    if side is not None:
        chosen["image_size"] = side
    return Part(source, chosen, weights, remark)


def read_text(source: str) -> TextPart:
    """Load the BERT encoder of `model.text`: sizes, weights and tokenizer.

    Raises:
        ClipBertError: nothing readable there, no BERT encoder, weights that are missing or mis-shaped, or a tokenizer
            with more words than the model.
    """
    parameter = "model.text"
    local = _is_local(parameter, source)
    config = _config(parameter, source, local)
    kind, positions = config.model_type, getattr(config, "position_embedding_type", None)
    if kind != "bert" or positions not in (None, "absolute") or config.is_decoder:
        what = f"its model_type is {kind!r}" if kind != "bert" else "it is a decoder or has relative positions"
        raise ClipBertError(
            f"{parameter}: {source}: {what}: expected an encoder of BERT's architecture, model_type 'bert' with "
            "absolute positions (bert-base-uncased, all-MiniLM-L6-v2, bert-tiny)."
        )

    def may_miss(name: str) -> bool:
        return name.startswith(("cls.", "bert.pooler.")) or name.endswith("position_ids")

    model, fresh = _weights(parameter, source, local, BertForPreTraining, config, may_miss)
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


def check_grid(model: Any, source: str) -> tuple[int, int]:
    """Return rows and columns of the grid of `config.image_size` pixels, from a forward pass of a black clip.

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
            f"model.vision: {source} with model.image_size = {size}: {reason}. Set model.image_size to what "
            "the backbone takes, and frames.size to at least that."
        ) from error
    finally:
        model.train(was_training)
    return int(grid.shape[1]), int(grid.shape[2])


def _is_local(parameter: str, source: str) -> bool:
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


def _config(parameter: str, source: str, local: bool) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # transformers, the hub client and strict dataclasses raise different types
        raise _unreadable(parameter, source, local, "config.json", error) from error
    return config


def _weights(
    parameter: str,
    source: str,
    local: bool,
    architecture: type[PreTrainedModel],
    config: PreTrainedConfig,
    may_miss: Callable[[str], bool],
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model with the weights of the source, and the modules that stay randomly initialized."""
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
        raise _unreadable(parameter, source, local, "the weights", error) from error
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


def _unreadable(parameter: str, source: str, local: bool, what: str, error: Exception) -> ClipBertError:
    first = str(error).strip().partition("\n")[0]
    if local:
        remedy = "expected a folder written by save_pretrained or `clipbert convert`: save it again."
    else:
        remedy = (
            "No such folder here, and the hub gave no such model: check the id and the network (HF_HUB_OFFLINE), or "
            "download it on another machine and name its folder."
        )
    return ClipBertError(f"{parameter}: {source}: {what} cannot be read ({first}). {remedy}")


def _preprocessing(parameter: str, source: str, local: bool) -> tuple[list[float], list[float], int | None, str]:
    """Return mean and standard deviation on the scale of 0 to 255, the side of square images, and a remark.

    The side is None where the file names no height and width: other sizes are those of a crop.
    """
    try:
        path = cached_file(
            source, PREPROCESSOR_FILE, local_files_only=local, _raise_exceptions_for_missing_entries=False
        )
        stored = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
        # Values are on a scale from 0 to 1 unless the file sets another rescale_factor or no rescaling.
        scale = 1 / float(stored.get("rescale_factor") or 1 / 255) if stored.get("do_rescale", True) else 1.0
        normalized = stored.get("do_normalize", True)
        mean = stored.get("image_mean") or IMAGENET_MEAN if normalized else (0.0,) * 3
        std = stored.get("image_std") or IMAGENET_STD if normalized else (1.0,) * 3
        found = [round(scale * float(v), 6) for v in mean], [round(scale * float(v), 6) for v in std]
        size = stored.get("size")
        height, width = (size.get("height"), size.get("width")) if isinstance(size, dict) else (None, None)
        side = int(height) if height is not None and height == width else None
    except (OSError, ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise _unreadable(parameter, source, local, PREPROCESSOR_FILE, error) from error
    return *found, side, f"its own normalization ({PREPROCESSOR_FILE})" if stored else "normalization of ImageNet"
