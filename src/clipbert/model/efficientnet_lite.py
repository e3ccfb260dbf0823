"""EfficientNet-Lite (Tan & Le, ICML 2019; Google's `lite` variants) as a transformers backbone and image classifier.

Lite variants have no squeeze-and-excitation, ReLU6 for swish, and a stem and a head that do not grow with the width.
Convolutions pad as TensorFlow's "same" does, which at stride 2 is asymmetric on inputs of an even size.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin, filter_output_hidden_states
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.utils import can_return_tuple

from clipbert.model.backbones import compute_weight

STAGE_LISTS = ("hidden_sizes", "depths", "kernel_sizes", "strides", "expand_ratios")


class EfficientNetLiteConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of an EfficientNet-Lite. The defaults are those of Lite0.

    The stages of a backbone are `stem`, `stage1` to `stage7`, and `head`, a 1x1 convolution to `head_size` channels
    that `stage7` and the classifier have between them. The last one is what the classifier pools.

    Attributes:
        image_size: side of the square images of its training in pixels.
        embedding_size: channels of the stem.
        hidden_sizes: channels of each stage's output.
        depths: number of blocks of each stage.
        kernel_sizes: side of the depthwise kernels of each stage.
        strides: stride of each stage's first block.
        expand_ratios: channels inside a block of each stage as a multiple of its input's.
        head_size: channels of the head.
        batch_norm_eps: added to the variances.
        batch_norm_momentum: weight of a batch in the running statistics.
        dropout_rate: before the classifier.

    Raises:
        ValueError: the lists of the stages differ in length.
    """

    model_type = "efficientnet_lite"

    num_channels: int = 3
    image_size: int = 224
    embedding_size: int = 32
    hidden_sizes: list[int] | tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    depths: list[int] | tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    kernel_sizes: list[int] | tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: list[int] | tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expand_ratios: list[int] | tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    head_size: int = 1280
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01
    dropout_rate: float = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        for name in STAGE_LISTS:
            setattr(self, name, list(getattr(self, name)))
            if len(getattr(self, name)) != len(self.hidden_sizes):
                raise ValueError(
                    f"{name} is {getattr(self, name)}: expected {len(self.hidden_sizes)} values, one for each of "
                    "hidden_sizes."
                )
        self.stage_names = ["stem", *(f"stage{number}" for number in range(1, len(self.hidden_sizes) + 1)), "head"]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    @classmethod
    def lite(cls, variant: int, **overrides: Any) -> "EfficientNetLiteConfig":
        """Return the configuration of Lite0, Lite1 or Lite2.

        Args:
            variant: 0, 1 or 2.
            overrides: fields to replace.
        """
        width, depth, size, dropout = VARIANTS[variant]
        plain = cls()
        depths = [math.ceil(depth * blocks) for blocks in plain.depths]
        scaled: dict[str, Any] = {
            "hidden_sizes": [_scaled(channels, width) for channels in plain.hidden_sizes],
            "depths": [plain.depths[0], *depths[1:-1], plain.depths[-1]],
            "image_size": size,
            "dropout_rate": dropout,
        }
        return cls(**(scaled | overrides))


# factor of the channels, factor of the blocks, image size, dropout
VARIANTS = ((1.0, 1.0, 224, 0.2), (1.0, 1.1, 240, 0.2), (1.1, 1.2, 260, 0.3))


def _scaled(channels: int, width: float) -> int:
    """Return the nearest multiple of 8, at most a tenth below `channels` x `width`."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class ConvLayer(nn.Module):
    """Convolution with "same" padding, batch norm and optional ReLU6.

    In training mode with a batch norm in evaluation mode (frozen statistics) the norm is folded into the convolution:
    the same output and gradients in fewer operations.
    """

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        inputs: int,
        outputs: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, groups=groups, bias=False)
        self.normalization = nn.BatchNorm2d(outputs, config.batch_norm_eps, config.batch_norm_momentum)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = self.convolution, self.normalization
        padding = [_padding(size, convolution.kernel_size[0], convolution.stride[0]) for size in x.shape[-2:]]
        (top, bottom), (left, right) = padding
        if (top, left) != (bottom, right):
            x, top, left = functional.pad(x, (left, right, top, bottom)), 0, 0
        settings: dict[str, Any] = {
            "stride": convolution.stride,
            "padding": (top, left),
            "groups": convolution.groups,
        }
        if self.training and not norm.training:
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            scale = norm.weight * torch.rsqrt(variance + norm.eps)
            weight = compute_weight(convolution.weight * scale[:, None, None, None])
            y = functional.conv2d(x, weight, (norm.bias - mean * scale).to(weight.dtype), **settings)
        else:
            y = norm(functional.conv2d(x, convolution.weight, **settings))
        # in place: neither a convolution nor a batch norm needs its output in the backward pass
        return functional.relu6(y, inplace=True) if self.activation else y


def _padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's "same" padding before and after a side of `size` pixels: ceil(size / stride) outputs."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


class Block(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection without activation."""

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        inputs: int,
        outputs: int,
        kernel_size: int,
        stride: int,
        expand_ratio: int,
    ) -> None:
        super().__init__()
        inner = inputs * expand_ratio
        self.expand = ConvLayer(config, inputs, inner) if expand_ratio > 1 else nn.Identity()
        self.depthwise = ConvLayer(config, inner, inner, kernel_size, stride, groups=inner)
        self.project = ConvLayer(config, inner, outputs, activation=False)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return y.add_(x) if self.has_shortcut else y


class Stage(GradientCheckpointingLayer):
    """Blocks at one resolution; the first one changes channels and resolution."""

    def __init__(self, config: EfficientNetLiteConfig, number: int) -> None:
        super().__init__()
        sizes = [config.embedding_size, *config.hidden_sizes]
        outputs, kernel_size = sizes[number + 1], config.kernel_sizes[number]
        expand_ratio = config.expand_ratios[number]
        first = Block(config, sizes[number], outputs, kernel_size, config.strides[number], expand_ratio)
        others = (
            Block(config, outputs, outputs, kernel_size, 1, expand_ratio) for _ in range(config.depths[number] - 1)
        )
        self.layers = nn.ModuleList([first, *others])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class EfficientNetLitePreTrainedModel(PreTrainedModel):
    """Loading, saving and initialization of the models below."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]

    def add_layers(self, config: EfficientNetLiteConfig) -> None:
        """Create the stem, the stages and the head."""
        self.stem = ConvLayer(config, config.num_channels, config.embedding_size, kernel_size=3, stride=2)
        self.stages = nn.ModuleList(Stage(config, number) for number in range(len(config.hidden_sizes)))
        self.head = ConvLayer(config, config.hidden_sizes[-1], config.head_size)

    def hidden_states(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the outputs of the stem, of each stage and of the head for (M, 3, H, W) normalized pixels."""
        states = [self.stem(pixel_values)]
        for layer in (*self.stages, self.head):
            states.append(layer(states[-1]))
        return states

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            initialization.normal_(module.weight, std=math.sqrt(2 / fan_out))


class EfficientNetLiteModel(EfficientNetLitePreTrainedModel):
    """EfficientNet-Lite without its classifier."""

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.add_layers(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Return the features of normalized images.

        Args:
            pixel_values: (M, 3, H, W).
            output_hidden_states: whether to return the output of each stage too.

        Returns:
            `last_hidden_state` (M, head_size, h, w), `pooler_output` (M, head_size), its mean over the cells.
        """
        states = self.hidden_states(pixel_values)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=states[-1],
            pooler_output=states[-1].mean(dim=(-2, -1)),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class EfficientNetLiteForImageClassification(EfficientNetLitePreTrainedModel):
    """EfficientNet-Lite with its classifier."""

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.efficientnet_lite = EfficientNetLiteModel(config)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.classifier = nn.Linear(config.head_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> ImageClassifierOutputWithNoAttention:
        """Return the logits (M, labels) of normalized images (M, 3, H, W), and the loss if `labels` (M,) are given."""
        outputs = self.efficientnet_lite(pixel_values, output_hidden_states)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class EfficientNetLiteBackbone(BackboneMixin, EfficientNetLitePreTrainedModel):
    """Backbone with the feature maps that `config.out_features` names, by default the head's (stride 32)."""

    has_attentions = False

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.num_features = [config.embedding_size, *config.hidden_sizes, config.head_size]
        self.add_layers(config)
        self.post_init()

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, output_hidden_states: bool | None = None) -> BackboneOutput:
        """Return `feature_maps`, each (M, channels, h, w), of normalized images (M, 3, H, W)."""
        states = self.hidden_states(pixel_values)
        maps = tuple(state for name, state in zip(self.stage_names, states, strict=True) if name in self.out_features)
        return BackboneOutput(feature_maps=maps, hidden_states=tuple(states) if output_hidden_states else None)


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel)
AutoModelForImageClassification.register(EfficientNetLiteConfig, EfficientNetLiteForImageClassification)
AutoBackbone.register(EfficientNetLiteConfig, EfficientNetLiteBackbone)
