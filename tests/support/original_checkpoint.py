"""A checkpoint as the authors' code writes it, with random weights, and their forward pass over its own names.

The forward pass is plain torch over the original names: BGR pixels minus the caffe mean, a ResNet that strides in its
first 1x1 convolution, the grid encoder, BERT. It shares nothing with `clipbert.model`.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BGR_MEAN = torch.tensor([103.53, 116.28, 123.675])
CONFIG: dict[str, Any] = {
    "backbone_channel_in_size": 32,
    "max_grid_row_position_embeddings": 6,
    "max_grid_col_position_embeddings": 7,
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 50,
}
FULL_SIZE = CONFIG | {
    "backbone_channel_in_size": 2048,
    "max_grid_row_position_embeddings": 100,
    "max_grid_col_position_embeddings": 100,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 30522,
}
SMALL_RESNET = (8, (16, 16, 24, 32), (2, 1, 1, 1))
RESNET_50 = (64, (256, 512, 1024, 2048), (3, 4, 6, 3))


def resnet_shapes(stem: int, sizes: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a detectron2 ResNet."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, into: int, out: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (out, into, kernel, kernel)
        shapes.update({f"{name}.norm.{leaf}": (out,) for leaf in ("weight", "bias", "running_mean", "running_var")})

    convolution("stem.conv1", 3, stem, 7)
    channels = stem
    for stage, (size, depth) in enumerate(zip(sizes, depths, strict=True), start=2):
        for block in range(depth):
            if channels != size or (block == 0 and stage > 2):
                convolution(f"res{stage}.{block}.shortcut", channels, size, 1)
            convolution(f"res{stage}.{block}.conv1", channels, size // 4, 1)
            convolution(f"res{stage}.{block}.conv2", size // 4, size // 4, 3)
            convolution(f"res{stage}.{block}.conv3", size // 4, size, 1)
            channels = size
    return shapes


def shapes(config: dict[str, Any], resnet: tuple[Any, Any, Any], labels: int | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a whole checkpoint; `labels` of its classifier, None: the pretraining heads."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    found = {f"cnn.feature.backbone.{name}": shape for name, shape in resnet_shapes(*resnet).items()}
    found["cnn.grid_encoder.0.weight"] = (hidden, resnet[1][-1], 3, 3)

    def linear(name: str, into: int, out: int) -> None:
        found[f"transformer.{name}.weight"], found[f"transformer.{name}.bias"] = (out, into), (out,)

    def norm(name: str) -> None:
        found[f"transformer.{name}.weight"] = found[f"transformer.{name}.bias"] = (hidden,)

    for name, rows in (
        ("embeddings.word_embeddings", vocabulary),
        ("embeddings.position_embeddings", config["max_position_embeddings"]),
        ("embeddings.token_type_embeddings", 2),
        ("visual_embeddings.position_embeddings", config["max_position_embeddings"]),
        ("visual_embeddings.row_position_embeddings", config["max_grid_row_position_embeddings"]),
        ("visual_embeddings.col_position_embeddings", config["max_grid_col_position_embeddings"]),
        ("visual_embeddings.token_type_embeddings", 1),
    ):
        found[f"transformer.bert.{name}.weight"] = (rows, hidden)
    norm("bert.embeddings.LayerNorm")
    norm("bert.visual_embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"bert.encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            linear(f"{at}.attention.self.{name}", hidden, hidden)
        linear(f"{at}.attention.output.dense", hidden, hidden)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", hidden, inner)
        linear(f"{at}.output.dense", inner, hidden)
        norm(f"{at}.output.LayerNorm")
    linear("bert.pooler.dense", hidden, hidden)
    if labels is not None:
        linear("classifier.0", hidden, 2 * hidden)
        linear("classifier.2", 2 * hidden, labels)
    else:
        linear("cls.predictions.transform.dense", hidden, hidden)
        norm("cls.predictions.transform.LayerNorm")
        found["transformer.cls.predictions.bias"] = (vocabulary,)
        linear("cls.seq_relationship", hidden, 2)
    return found


def checkpoint(
    labels: int | None = 2,
    config: dict[str, Any] = CONFIG,
    resnet: tuple[Any, Any, Any] = SMALL_RESNET,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Random weights under the original's names, with the detector's leftovers."""
    random = torch.Generator().manual_seed(5)
    state = {}
    for name, shape in shapes(config, resnet, labels).items():
        noise = torch.randn(shape, generator=random)
        if name.endswith("running_var") or ("norm" in name.lower() and name.endswith(".weight")):
            noise = 1 + 0.2 * noise.clamp(-2, 2)
        elif len(shape) == 4:
            noise = noise * (2 / noise[0].numel()) ** 0.5
        elif len(shape) == 2:
            noise = noise * 0.3
        state[name] = noise.to(dtype)
    if labels is None:
        state["transformer.cls.predictions.decoder.weight"] = state[
            "transformer.bert.embeddings.word_embeddings.weight"
        ]
    state["cnn.feature.proposal_generator.rpn_head.conv.weight"] = torch.zeros(4, 4, 3, 3)
    state["cnn.feature.roi_heads.box_predictor.attr_score.bias"] = torch.zeros(7)
    return state


def forward(state: dict[str, Tensor], pixels: Tensor, ids: Tensor, mask: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """States (N, L + V, hidden) and pooled (N, hidden) of N clips (N, T, 3, H, W) RGB with one text each, float64."""
    weights = {name: value.double() for name, value in state.items()}
    joint = torch.cat([text_tokens(weights, ids), visual_tokens(weights, pixels)], dim=1)
    seen = torch.cat([mask, torch.ones(joint.shape[0], joint.shape[1] - mask.shape[1])], dim=1)
    bias = torch.where(seen[:, None, None, :] > 0, 0.0, -10000.0).double()
    layer = 0
    while f"transformer.bert.encoder.layer.{layer}.output.dense.weight" in weights:
        joint = encoder_layer(weights, f"bert.encoder.layer.{layer}", joint, bias, heads)
        layer += 1
    return joint, torch.tanh(linear(weights, "bert.pooler.dense", joint[:, 0]))


def classify(state: dict[str, Tensor], pooled: Tensor) -> Tensor:
    weights = {name: value.double() for name, value in state.items()}
    return linear(weights, "classifier.2", linear(weights, "classifier.0", pooled).relu())


def predict_words(state: dict[str, Tensor], text: Tensor) -> Tensor:
    weights = {name: value.double() for name, value in state.items()}
    inner = functional.gelu(linear(weights, "cls.predictions.transform.dense", text))
    inner = norm(weights, "cls.predictions.transform.LayerNorm", inner)
    scores: Tensor = inner @ weights["transformer.bert.embeddings.word_embeddings.weight"].T
    return scores + weights["transformer.cls.predictions.bias"]


def match(state: dict[str, Tensor], pooled: Tensor) -> Tensor:
    return linear({name: value.double() for name, value in state.items()}, "cls.seq_relationship", pooled)


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.linear(x, weights[f"transformer.{name}.weight"], weights[f"transformer.{name}.bias"])


def norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    scale, shift = weights[f"transformer.{name}.weight"], weights[f"transformer.{name}.bias"]
    return functional.layer_norm(x, x.shape[-1:], scale, shift, 1e-12)


def text_tokens(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    at = "transformer.bert.embeddings"
    words = weights[f"{at}.word_embeddings.weight"][ids]
    places = weights[f"{at}.position_embeddings.weight"][: ids.shape[1]]
    return norm(weights, "bert.embeddings.LayerNorm", words + places + weights[f"{at}.token_type_embeddings.weight"][0])


def visual_tokens(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    grids = torch.stack([grid(weights, clip.flip(1).double() - BGR_MEAN[:, None, None]) for clip in pixels])
    mean = grids.mean(dim=1).permute(0, 2, 3, 1)
    at = "transformer.bert.visual_embeddings"
    mean = mean + weights[f"{at}.row_position_embeddings.weight"][: mean.shape[1], None]
    mean = mean + weights[f"{at}.col_position_embeddings.weight"][None, : mean.shape[2]]
    tokens = mean.flatten(1, 2) + weights[f"{at}.token_type_embeddings.weight"][0]
    return norm(weights, "bert.visual_embeddings.LayerNorm", tokens)


def grid(weights: dict[str, Tensor], frames: Tensor) -> Tensor:
    def convolve(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = weights[f"cnn.feature.backbone.{name}.weight"]
        y = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        leaves = (
            f"cnn.feature.backbone.{name}.norm.{leaf}" for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(y, *(weights[leaf] for leaf in leaves), eps=1e-5)

    x = functional.max_pool2d(convolve("stem.conv1", frames, 2).relu(), 3, stride=2, padding=1)
    for stage in range(2, 6):
        block = 0
        while f"cnn.feature.backbone.res{stage}.{block}.conv1.weight" in weights:
            at, stride = f"res{stage}.{block}", 2 if stage > 2 and block == 0 else 1
            y = convolve(f"{at}.conv2", convolve(f"{at}.conv1", x, stride).relu()).relu()
            if f"cnn.feature.backbone.{at}.shortcut.weight" in weights:
                x = convolve(f"{at}.shortcut", x, stride)
            x = (x + convolve(f"{at}.conv3", y)).relu()
            block += 1
    projected = functional.conv2d(x, weights["cnn.grid_encoder.0.weight"], padding=1)
    return functional.max_pool2d(projected, 2, stride=2).relu()


def encoder_layer(weights: dict[str, Tensor], at: str, x: Tensor, bias: Tensor, heads: int) -> Tensor:
    def split(name: str) -> Tensor:
        return linear(weights, f"{at}.attention.self.{name}", x).unflatten(-1, (heads, -1)).transpose(1, 2)

    query, key, value = split("query"), split("key"), split("value")
    attention = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias).softmax(-1)
    context = (attention @ value).transpose(1, 2).flatten(2)
    x = norm(weights, f"{at}.attention.output.LayerNorm", x + linear(weights, f"{at}.attention.output.dense", context))
    inner = functional.gelu(linear(weights, f"{at}.intermediate.dense", x))
    return norm(weights, f"{at}.output.LayerNorm", x + linear(weights, f"{at}.output.dense", inner))
