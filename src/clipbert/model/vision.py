"""Vision half: backbone and grid encoder (section 3.1 of the paper)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone

from clipbert.model.backbones import can_fold_batch_norm, compute_weight, forward_folded
from clipbert.model.configuration import ClipBertConfig, backbone_config
from clipbert.model.encoder_configs import PATCH_ENCODERS
from clipbert.model.patch_backbone import PatchBackbone


class Normalize(nn.Module):
    """Normalization of RGB pixels in [0, 255], uint8 or float: (value - mean) / std per channel."""

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        self.config = config
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(3, 1, 1), persistent=False)
        self.mean.copy_(self.values("image_mean"))
        self.std.copy_(self.values("image_std"))

    def values(self, name: str) -> Tensor:
        """Return `config.image_mean` or `config.image_std` as a (3, 1, 1) tensor."""
        return torch.tensor(getattr(self.config, name)).view(3, 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


class GridEncoder(nn.Module):
    """Grids (M, h, w, hidden) of frames (M, 3, H, W).

    The last feature map of a transformers backbone, or the patch tokens of a vision transformer, go through a 3x3
    convolution without bias to the hidden size, a 2x2 max pool and ReLU. With `config.freeze_batch_norm` the batch
    norms keep their stored statistics in training mode and are not trained; a ResNet then runs `forward_folded`.

    Attributes:
        checkpointing: whether backward recomputes the activations of the backbone's stages.

    Raises:
        ValueError: frames so small that no grid cell is left.
    """

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        self.freeze_batch_norm, self.checkpointing = config.freeze_batch_norm, False
        self.normalize = Normalize(config)
        self.backbone = _make_backbone(config)
        self.projection = nn.Conv2d(self.channels, config.hidden_size, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.backbone_frozen = False
        self._frozen_parameters: list[nn.Parameter] = []
        self._freeze_batch_norm()

    @property
    def channels(self) -> int:
        """Channels of the backbone's last feature map."""
        return int(self.backbone.channels[-1])

    def freeze_backbone(self) -> None:
        """Stop training the backbone: no gradients, and evaluation mode (fixed batch norm statistics) in `train()`."""
        self.backbone_frozen = True
        self._frozen_parameters += [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        self.backbone.eval().requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train the parameters that `freeze_backbone` froze, and the statistics of batch norms that are not frozen."""
        self.backbone_frozen = False
        for parameter in self._frozen_parameters:
            parameter.requires_grad_(True)
        self._frozen_parameters = []
        self.train(self.training)

    def _freeze_batch_norm(self) -> None:
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "GridEncoder":
        super().train(mode)
        # from_pretrained creates trainable parameters and then calls eval()
        self._freeze_batch_norm()
        if self.backbone_frozen:
            self.backbone.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        return self.encode(frames)[0]

    def encode_with_pooled(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the grids (M, h, w, hidden) and the pooled output (M, channels) of a pretrained dual encoder.

        Only where `config.dual_encoder` is set.
        """
        grids, pooled = self.encode(frames)
        assert pooled is not None
        return grids, pooled

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the grids (M, h, w, hidden) of frames (M, 3, H, W), and the pooled output of an encoder that has it.

        Raises:
            ValueError: frames so small that no grid cell is left, or not a multiple of the patch size.
        """
        features, pooled = self._features(frames)
        return self.grid(features), pooled

    def feature_maps(self, frames: Tensor) -> Tensor:
        """Return the backbone's last feature map (M, channels, h, w) of frames (M, 3, H, W)."""
        return self._features(frames)[0]

    def _features(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last feature map (M, channels, h, w), and the pooled output of an encoder that has it."""
        # channels last makes convolutions a third faster on a CPU and suits the tensor cores of a GPU
        pixels = self.normalize(frames).contiguous(memory_format=torch.channels_last)
        pooled = None
        if self.training and can_fold_batch_norm(self.backbone):
            features = forward_folded(self.backbone, pixels, self.checkpointing)
        else:
            out = self.backbone(pixels)
            features = out.feature_maps[-1]
            pooled = out.pooler_output if isinstance(self.backbone, PatchBackbone) else None
        if min(features.shape[-2:]) < 2:
            raise ValueError(
                f"pixel_values of {frames.shape[-2]} x {frames.shape[-1]} pixels give a feature map of "
                f"{features.shape[-2]} x {features.shape[-1]}: expected at least 2 x 2. Use larger frames."
            )
        return features, pooled

    def grid(self, features: Tensor) -> Tensor:
        """Return the grids (M, h, w, hidden) of feature maps (M, channels, h', w')."""
        return torch.relu(self.pool(self._project(features))).permute(0, 2, 3, 1)

    def _project(self, features: Tensor) -> Tensor:
        if not self.training:
            projected: Tensor = self.projection(features)
            return projected
        weight = compute_weight(self.projection.weight)
        return nn.functional.conv2d(features, weight, padding=self.projection.padding)


def _make_backbone(config: ClipBertConfig) -> Any:
    vision = config.vision or {}
    if vision["model_type"] in PATCH_ENCODERS:
        return PatchBackbone(vision, pooled=config.dual_encoder is not None)
    return AutoBackbone.from_config(backbone_config(vision))
