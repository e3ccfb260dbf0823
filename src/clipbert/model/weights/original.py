"""Weight names of the authors' checkpoints and their counterparts here.

Names and shapes are those of the released ClipBERT (github.com/jayleicn/ClipBERT): a detectron2 ResNet under
`cnn.feature.backbone`, the grid encoder, and a BERT under `transformer`.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

STEM = "vision.backbone.embedder.embedder"
FIRST_CONVOLUTION = f"{STEM}.convolution.weight"
NORM = ("weight", "bias", "running_mean", "running_var")
BODY = "clipbert."

# Weights of the released checkpoint that ClipBERT does not use: the detector around its ResNet.
DETECTOR = re.compile(
    r"^cnn\.feature\.(proposal_generator|roi_heads|anchor_generator|pixel_mean|pixel_std|backbone\.(fpn|top_block))\b"
)
BOOKKEEPING = re.compile(r"(\.num_batches_tracked|\.position_ids)$")
UNUSED = "transformer.bert.visual_embeddings.position_embeddings.weight"
TIED = {
    "transformer.cls.predictions.decoder.weight": "transformer.bert.embeddings.word_embeddings.weight",
    "transformer.cls.predictions.decoder.bias": "transformer.cls.predictions.bias",
}
BLOCK = re.compile(r"^res(?P<stage>[2-5])\.(?P<layer>\d+)\.(?P<part>shortcut|conv[123])\.(?P<rest>.+)$")
OUR_BLOCK = re.compile(
    r"^vision\.backbone\.encoder\.stages\.(?P<stage>\d)\.layers\.(?P<layer>\d+)\."
    r"(?:(?P<shortcut>shortcut)|layer\.(?P<index>[012]))\.(?P<rest>.+)$"
)
BATCH_NORM_EPSILON = 1e-5


def backbone_name(name: str) -> str | None:
    """Return our name of a detectron2 ResNet weight (`res2.0.conv1.norm.bias`); None: unknown."""
    if name.startswith("stem.conv1."):
        rest = _ours(name.removeprefix("stem.conv1."))
        return None if rest is None else f"{STEM}.{rest}"
    found = BLOCK.match(name)
    rest = _ours(found["rest"]) if found else None
    if found is None or rest is None:
        return None
    part = "shortcut" if found["part"] == "shortcut" else f"layer.{int(found['part'][-1]) - 1}"
    return f"vision.backbone.encoder.stages.{int(found['stage']) - 2}.layers.{found['layer']}.{part}.{rest}"


def detectron_name(name: str) -> str | None:
    """Return the detectron2 name of our weight; None where it has none (`num_batches_tracked`)."""
    if name.startswith(f"{STEM}."):
        rest = _theirs(name.removeprefix(f"{STEM}."))
        return None if rest is None else f"stem.conv1.{rest}"
    found = OUR_BLOCK.match(name)
    rest = _theirs(found["rest"]) if found else None
    if found is None or rest is None:
        return None
    part = found["shortcut"] or f"conv{int(found['index']) + 1}"
    return f"res{int(found['stage']) + 2}.{found['layer']}.{part}.{rest}"


def _ours(rest: str) -> str | None:
    if rest == "weight":
        return "convolution.weight"
    return f"normalization.{rest[5:]}" if rest.startswith("norm.") and rest[5:] in NORM else None


def _theirs(rest: str) -> str | None:
    if rest == "convolution.weight":
        return "weight"
    kind, _, leaf = rest.partition(".")
    return f"norm.{leaf}" if kind == "normalization" and leaf in NORM else None


PREFIXES = (
    ("cnn.grid_encoder.0.", f"{BODY}vision.projection."),
    ("transformer.bert.embeddings.", f"{BODY}embeddings."),
    ("transformer.bert.visual_embeddings.", f"{BODY}visual_embeddings."),
    ("transformer.bert.encoder.", f"{BODY}encoder."),
    ("transformer.bert.pooler.", f"{BODY}pooler."),
    ("transformer.classifier.", "classifier."),
    ("transformer.cls.", "cls."),
)


def our_name(name: str) -> str | None:
    """Return our name of an original weight; None: not a weight of ClipBERT."""
    if name.startswith("cnn.feature.backbone."):
        found = backbone_name(name.removeprefix("cnn.feature.backbone."))
        return None if found is None else f"{BODY}{found}"
    for theirs, ours in PREFIXES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def original_name(name: str) -> str | None:
    """Return the original name of our weight; None where it has none."""
    if name.startswith(f"{BODY}vision.backbone."):
        found = detectron_name(name.removeprefix(BODY))
        return None if found is None else f"cnn.feature.backbone.{found}"
    for theirs, ours in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return None


def swap_channels(weight: Tensor) -> Tensor:
    """Return the first convolution for the reversed channel order: the original uses BGR, we use RGB."""
    return weight.flip(1).contiguous()


@dataclass
class Translated:
    """Weights of an original checkpoint under our names, in float32; omitted ones under the original names."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    detector: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    untied: list[str] = field(default_factory=list)
    other_head: int = 0  # weights of another task's head
    kept: dict[str, Tensor] = field(default_factory=dict)  # unused here, but part of the original transformer
    types: dict[str, str] = field(default_factory=dict)  # dtype of every weight in the file, such as float16


def translate(state: dict[str, Tensor]) -> Translated:
    """Split an original state dict into the weights of ClipBERT, unused ones and unknown ones."""
    found = Translated()
    for name, value in state.items():
        ours = our_name(name)
        if DETECTOR.match(name):
            found.detector.append(name)
        elif name == UNUSED or BOOKKEEPING.search(name):
            found.kept[name] = value
            found.types[name] = _type(value)
        elif name in TIED:
            found.types[name] = _type(value)
            if TIED[name] in state and not torch.equal(value, state[TIED[name]]):
                found.untied.append(name)
        elif ours is None:
            found.unexpected.append(name)
        else:
            found.types[name] = _type(value)
            single = value.float()
            found.weights[ours] = swap_channels(single) if ours == f"{BODY}{FIRST_CONVOLUTION}" else single
    return found


def restore(state: dict[str, Tensor], kept: dict[str, Tensor], types: dict[str, str]) -> dict[str, Tensor]:
    """Return our weights under the original names; `kept` and `types` of `Translated` are empty for our own models.

    Raises:
        ValueError: weights that do not exist in the original architecture.
    """
    found: dict[str, Tensor] = {}
    strange = []
    for name, value in state.items():
        theirs = original_name(name)
        if theirs is None:
            if not BOOKKEEPING.search(name):
                strange.append(name)
            continue
        found[theirs] = swap_channels(value) if name == f"{BODY}{FIRST_CONVOLUTION}" else value
    if strange:
        raise ValueError(", ".join(sorted(strange)))
    for name, source in TIED.items():
        found.pop(name, None)
        if source in found and "transformer.cls.predictions.bias" in found and (not types or name in types):
            found[name] = found[source]
    found |= kept
    # A tied weight is a copy here, as it is in a file of the original.
    return {
        name: value.to(getattr(torch, types[name])).clone() if name in types else value.clone()
        for name, value in found.items()
    }


def resnet_config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the `vision` configuration of a detectron2 ResNet from its weight shapes (`res2.0.conv3.weight`).

    Raises:
        ValueError: the stem or a stage's convolutions are missing.
    """
    if "stem.conv1.weight" not in shapes:
        raise ValueError("stem.conv1.weight")
    depths, sizes = [], []
    for stage in range(2, 6):
        blocks = {int(name.split(".")[1]) for name in shapes if name.startswith(f"res{stage}.")}
        if not blocks:
            break
        if (last := f"res{stage}.0.conv3.weight") not in shapes:
            raise ValueError(last)
        depths.append(max(blocks) + 1)
        sizes.append(shapes[last][0])
    if not depths:
        raise ValueError("res2.0.conv1.weight")
    return {
        "model_type": "resnet",
        "embedding_size": shapes["stem.conv1.weight"][0],
        "hidden_sizes": sizes,
        "depths": depths,
        "layer_type": "bottleneck",
        "downsample_in_bottleneck": True,
        "downsample_in_first_stage": False,
    }


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
