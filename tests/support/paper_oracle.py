"""ClipBERT written down from the paper: one text, one clip, one head, one query at a time, in float64.

It shares nothing with the model but the names of its weights. Padding is not masked but left out.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clipbert.model import ClipBertConfig


@dataclass
class Oracle:
    """The forward pass over a state dict."""

    weights: dict[str, Tensor]
    config: ClipBertConfig

    def weight(self, name: str) -> Tensor:
        return self.weights[name if name in self.weights else f"clipbert.{name}"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        y = self.weight(f"{name}.weight") @ x
        return y + self.weight(f"{name}.bias") if self.has(f"{name}.bias") else y

    def has(self, name: str) -> bool:
        return name in self.weights or f"clipbert.{name}" in self.weights

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        centered = x - x.mean()
        variance = (centered * centered).mean()
        normal = centered / torch.sqrt(variance + 1e-12)
        return normal * self.weight(f"{name}.weight") + self.weight(f"{name}.bias")

    def convolve(self, x: Tensor, name: str, stride: int = 1, relu: bool = True) -> Tensor:
        kernel = self.weight(f"{name}.convolution.weight")
        y = functional.conv2d(x[None], kernel, stride=stride, padding=kernel.shape[-1] // 2)[0]
        norm = f"{name}.normalization"
        scale = self.weight(f"{norm}.weight") / torch.sqrt(self.weight(f"{norm}.running_var") + 1e-5)
        y = (y - self.weight(f"{norm}.running_mean")[:, None, None]) * scale[:, None, None]
        y = y + self.weight(f"{norm}.bias")[:, None, None]
        return y.clamp(min=0) if relu else y

    def resnet(self, image: Tensor) -> Tensor:
        """(3, H, W) normalized to (channels, h, w). A bottleneck strides in its first 1x1, as a basic block does."""
        x = self.convolve(image, "vision.backbone.embedder.embedder", stride=2)
        x = functional.max_pool2d(x[None], 3, stride=2, padding=1)[0]
        for stage, depth in enumerate(self.config.vision["depths"]):
            for number in range(depth):
                block = f"vision.backbone.encoder.stages.{stage}.layers.{number}"
                stride = 2 if stage > 0 and number == 0 else 1
                convolutions = 3 if self.config.vision["layer_type"] == "bottleneck" else 2
                y = x
                for index in range(convolutions):
                    first, last = index == 0, index == convolutions - 1
                    y = self.convolve(y, f"{block}.layer.{index}", stride=stride if first else 1, relu=not last)
                if self.has(f"{block}.shortcut.convolution.weight"):
                    x = self.convolve(x, f"{block}.shortcut", stride=stride, relu=False)
                x = (x + y).clamp(min=0)
        return x

    def grid(self, frame: Tensor) -> Tensor:
        """(3, H, W) pixels of 0 to 255 to (hidden, rows, cols)."""
        mean = torch.tensor(self.config.image_mean, dtype=torch.float64)[:, None, None]
        std = torch.tensor(self.config.image_std, dtype=torch.float64)[:, None, None]
        features = self.resnet((frame.double() - mean) / std)
        features = functional.conv2d(features[None], self.weight("vision.projection.weight"), padding=1)[0]
        channels, rows, cols = features.shape[0], features.shape[1] // 2, features.shape[2] // 2
        blocks = features[:, : rows * 2, : cols * 2].reshape(channels, rows, 2, cols, 2)
        return blocks.amax(dim=(2, 4)).clamp(min=0)

    def visual_tokens(self, clip: Tensor) -> list[Tensor]:
        """(T, 3, H, W) to the list of the clip's visual tokens, row by row."""
        grid = sum(self.grid(frame) for frame in clip) / len(clip)
        tokens = []
        for row in range(grid.shape[1]):
            for col in range(grid.shape[2]):
                token = grid[:, row, col]
                token = token + self.weight("visual_embeddings.row_position_embeddings.weight")[row]
                token = token + self.weight("visual_embeddings.col_position_embeddings.weight")[col]
                token = token + self.weight("visual_embeddings.token_type_embeddings.weight")[0]
                tokens.append(self.layer_norm(token, "visual_embeddings.LayerNorm"))
        return tokens

    def text_tokens(self, ids: list[int]) -> list[Tensor]:
        tokens = []
        for position, index in enumerate(ids):
            token = self.weight("embeddings.word_embeddings.weight")[index]
            token = token + self.weight("embeddings.position_embeddings.weight")[position]
            token = token + self.weight("embeddings.token_type_embeddings.weight")[0]
            tokens.append(self.layer_norm(token, "embeddings.LayerNorm"))
        return tokens

    def encode(self, tokens: list[Tensor]) -> list[Tensor]:
        heads = self.config.num_attention_heads
        width = self.config.hidden_size // heads
        for number in range(self.config.num_hidden_layers):
            layer = f"encoder.layer.{number}"
            query, key, value = (
                [self.linear(token, f"{layer}.attention.self.{name}") for token in tokens]
                for name in ("query", "key", "value")
            )
            parts = [slice(head * width, (head + 1) * width) for head in range(heads)]
            keys = [torch.stack([vector[part] for vector in key]) for part in parts]
            values = [torch.stack([vector[part] for vector in value]) for part in parts]
            attended = []
            for here, token in enumerate(tokens):
                context = []
                for head, part in enumerate(parts):
                    weights = torch.exp(keys[head] @ query[here][part] / math.sqrt(width))
                    context.append((weights / weights.sum()) @ values[head])
                output = self.linear(torch.cat(context), f"{layer}.attention.output.dense")
                attended.append(self.layer_norm(token + output, f"{layer}.attention.output.LayerNorm"))
            tokens = []
            for token in attended:
                inner = self.linear(token, f"{layer}.intermediate.dense")
                output = self.linear(gelu(inner), f"{layer}.output.dense")
                tokens.append(self.layer_norm(token + output, f"{layer}.output.LayerNorm"))
        return tokens

    def pool(self, states: list[Tensor]) -> Tensor:
        return torch.tanh(self.linear(states[0], "pooler.dense"))

    def states(self, pixels: Tensor, ids: Tensor, mask: Tensor, counts: list[int]) -> list[list[list[Tensor]]]:
        """For each text and each clip of its video the encoder's states: its tokens without padding, then the cells."""
        owners = [video for video, count in enumerate(counts) for _ in range(count)]
        visual = [[self.visual_tokens(clip) for clip in video] for video in pixels]
        result = []
        for text, owner in enumerate(owners):
            real = [int(index) for index, kept in zip(ids[text], mask[text], strict=True) if kept]
            result.append([self.encode(self.text_tokens(real) + cells) for cells in visual[owner]])
        return result

    def clip_logits(self, pixels: Tensor, ids: Tensor, mask: Tensor, counts: list[int]) -> Tensor:
        """(N, K, labels) of the two-layer head."""
        return torch.stack(
            [
                torch.stack(
                    [
                        self.linear(self.linear(self.pool(clip), "classifier.0").clamp(min=0), "classifier.2")
                        for clip in clips
                    ]
                )
                for clips in self.states(pixels, ids, mask, counts)
            ]
        )

    def mlm_logits(self, state: Tensor) -> Tensor:
        inner = gelu(self.linear(state, "cls.predictions.transform.dense"))
        inner = self.layer_norm(inner, "cls.predictions.transform.LayerNorm")
        return self.weight("embeddings.word_embeddings.weight") @ inner + self.weight("cls.predictions.bias")


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def lse_loss(clip_logits: Tensor, labels: list[int]) -> Tensor:
    """Mean over texts of logsumexp over (clips, labels) minus logsumexp over the clips of the true label."""
    losses = []
    for logits, label in zip(clip_logits, labels, strict=True):
        losses.append(torch.log(torch.exp(logits).sum()) - torch.log(torch.exp(logits[:, label]).sum()))
    return sum(losses) / len(losses)


def pooled_loss(clip_logits: Tensor, labels: list[int], how: str) -> Tensor:
    """Cross entropy of the clips' mean or maximum logits."""
    losses = []
    for logits, label in zip(clip_logits, labels, strict=True):
        joined = logits.mean(dim=0) if how == "mean" else logits.max(dim=0).values
        losses.append(-torch.log(torch.exp(joined[label]) / torch.exp(joined).sum()))
    return sum(losses) / len(losses)


def loss(clip_logits: Tensor, labels: list[int], how: str) -> Tensor:
    return lse_loss(clip_logits, labels) if how == "lse" else pooled_loss(clip_logits, labels, how)
