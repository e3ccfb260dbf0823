"""Vision transformers that transformers' AutoBackbone does not have: ViT, CLIP, SigLIP and SigLIP 2."""

from typing import Any, NamedTuple

import transformers
from torch import Tensor, nn

from clipbert.model.configuration import backbone_config
from clipbert.model.encoder_configs import PATCH_ENCODERS, patch_size


class PatchOutput(NamedTuple):
    """Output of a `PatchBackbone`.

    Attributes:
        feature_maps: one map (M, channels, h, w): the patch tokens of the last layer as a grid.
        pooler_output: (M, channels), what the dual encoder projects or takes as the frame's embedding; None without a
            pooling head.
    """

    feature_maps: tuple[Tensor]
    pooler_output: Tensor | None


class PatchBackbone(nn.Module):
    """Patch tokens of a vision transformer as a feature map.

    The tokens are `last_hidden_state` of transformers' model without its class token. Position embeddings are
    interpolated to the size of the frames, as transformers does with `interpolate_pos_encoding` (bicubic; SigLIP 2:
    bilinear with antialiasing).

    Attributes:
        model: a `ViTModel`, `CLIPVisionModel`, `SiglipVisionModel` or `Siglip2VisionModel`.
        channels: width of the tokens, as in transformers' backbones.
    """

    def __init__(self, vision: dict[str, Any], pooled: bool) -> None:
        """
        Args:
            vision: `ClipBertConfig.vision`, of one of `PATCH_ENCODERS`.
            pooled: whether `pooler_output` is needed; without it the model has no weights for it.
        """
        super().__init__()
        self.kind, self.pooled = vision["model_type"], pooled
        config = backbone_config(vision)
        if self.kind.startswith("siglip"):
            config.vision_use_head = pooled
        arguments = {"add_pooling_layer": False} if self.kind == "vit" else {}
        self.model = getattr(transformers, PATCH_ENCODERS[self.kind])._from_config(config, **arguments)
        if self.kind == "clip_vision_model" and not pooled:
            self.model.post_layernorm = nn.Identity()  # of the class token only
        self.patch, self.channels = patch_size(config), [config.hidden_size]
        self.prefix_tokens = 1 if self.kind in ("vit", "clip_vision_model") else 0

    def forward(self, pixels: Tensor) -> PatchOutput:
        """Encode normalized frames (M, 3, H, W).

        Raises:
            ValueError: height or width are not a multiple of the patch size.
        """
        height, width = pixels.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"pixel_values of {height} x {width} pixels: expected multiples of the patch size {self.patch}."
            )
        rows, cols = height // self.patch, width // self.patch
        if self.kind == "siglip2_vision_model":
            tokens, pooled = self._run_siglip2(pixels, rows, cols)
        else:
            out = self.model(pixels, interpolate_pos_encoding=True)
            tokens, pooled = out.last_hidden_state, out.pooler_output
        grid = tokens[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, (rows, cols))
        return PatchOutput((grid,), pooled if self.pooled else None)

    def _run_siglip2(self, pixels: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor | None]:
        """Return tokens (M, rows * cols, channels) and pooled output of frames that all have the same size.

        Siglip2Model takes patches of images of different sizes, with a mask, and resizes the position embeddings once
        per image on the host. Frames of one size need neither.
        """
        embeddings = self.model.embeddings
        patches = pixels.unflatten(3, (cols, self.patch)).unflatten(2, (rows, self.patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (M, rows * cols, patch * patch * 3)
        side = embeddings.position_embedding_size
        positions = embeddings.position_embedding.weight.view(side, side, -1).permute(2, 0, 1)[None]
        positions = nn.functional.interpolate(positions, size=(rows, cols), mode="bilinear", antialias=True)
        tokens = embeddings.patch_embedding(patches) + positions.flatten(2).transpose(1, 2)
        tokens = self.model.post_layernorm(self.model.encoder(inputs_embeds=tokens).last_hidden_state)
        return tokens, self.model.head(tokens) if self.pooled else None


def native_image_size(vision: dict[str, Any]) -> int:
    """Return the side in pixels of the square images for which an encoder has its position embeddings."""
    config = backbone_config(vision)
    if vision["model_type"] == "siglip2_vision_model":
        return patch_size(config) * int(config.num_patches**0.5)
    size = config.image_size
    return int(size if isinstance(size, int) else size[0])
