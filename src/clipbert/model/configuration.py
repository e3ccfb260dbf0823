"""Configuration of the ClipBERT models, checked when it is created."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from clipbert.model.efficientnet_lite import EfficientNetLiteBackbone, EfficientNetLiteConfig
from clipbert.model.encoder_configs import DUAL_ENCODERS, PATCH_ENCODERS, dual_text_config, patch_size
from clipbert.model.presets import RESNET50, SMALL, TINY
from clipbert.model.weights.checksums import check_model

AGGREGATIONS = ("lse", "mean", "max")
FRAME_FUSIONS = ("mean", "concat", "attention", "conv3d")
WITH_FRAME_EMBEDDINGS = ("concat", "attention")
RETRIEVAL_LOSSES = ("ce", "ranking")
VIDEO_HEADS = ("encoder", "direct")
ANSWER_LOSSES = ("ce", "bce")
# Built by another package, or with feature maps that are not a grid of the last layer's features.
NO_GRID = ("timm_backbone", "uvdoc_backbone", "vitpose_backbone")
BACKBONES = {kind: name for kind, name in MODEL_FOR_BACKBONE_MAPPING_NAMES.items() if kind not in NO_GRID}
BACKBONES[EfficientNetLiteConfig.model_type] = EfficientNetLiteBackbone.__name__
BERT_FIELDS = (  # with the same names in the configuration of BERT
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)
POSITIVE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "image_size",
    "max_grid_rows",
    "max_grid_cols",
    "clips",
    "frames_per_clip",
    "max_frames_per_clip",
    "max_text_length",
)


class ClipBertConfig(PreTrainedConfig):
    """Configuration of a ClipBERT model. The defaults are those of the paper (section 4 and its released code).

    The fields of BERT (`hidden_size`, `num_hidden_layers`, ...) configure the text encoder, which is also the
    cross-modal encoder.

    Attributes:
        vision: configuration of a transformers backbone as a dictionary with its `model_type` (one that `AutoBackbone`
            supports: ResNet, EfficientNet-Lite, ConvNeXt, DINOv2, ...), whose last feature map is used, or of a vision
            transformer whose patch tokens are (ViT, CLIP, SigLIP, SigLIP 2). None: the paper's ResNet-50.
        freeze_batch_norm: whether the backbone's batch norms keep their stored statistics and are not trained.
        image_size: longer side of a frame in pixels.
        image_mean: per channel (R, G, B), on the scale of pixels, 0 to 255.
        image_std: like `image_mean`.
        max_grid_rows: number of row position embeddings.
        max_grid_cols: number of column position embeddings.
        clips: number of clips that the processor samples from a video.
        frames_per_clip: number of frames per clip.
        frame_fusion: how the frames of a clip are fused: "mean" (the paper), "concat", "attention" or "conv3d".
            "concat" and "attention" encode the order of up to `max_frames_per_clip` frames, "conv3d" of any number.
        max_frames_per_clip: number of frame position embeddings.
        max_text_length: number of tokens to which texts are truncated.
        score_aggregation: how the logits of the clips are aggregated: "lse", "mean" or "max".
        answers: answer vocabulary of open-ended QA, in the order of its logits.
        answer_loss: "ce" (one right answer) or "bce" (image QA: a soft score per answer).
        retrieval_loss: "ce" (2 labels) or "ranking" (1 label, sigmoid).
        ranking_margin: margin of the ranking loss.
        projection_size: dimension of the dual encoder's vectors; None: no dual encoder.
        dual_encoder: dictionary with the `model_type` of a pretrained dual encoder ("clip", "siglip" or "siglip2") and
            its `text_config`; its vision half is `vision`, and `projection_size` is that of its embeddings. Retrieval
            only. None: the dual encoder, if any, shares the BERT encoder.
        cross_encoder: whether the retrieval score includes the cross-encoder's log odds; False: it is the dual
            encoder's similarity alone.
        video_head: how a dual encoder that is not pretrained makes a video's vector: "encoder", by the BERT encoder
            over its visual tokens; "direct", from the pooled features of the backbone (`DirectVideoHead`), with vectors
            of `hidden_size`. Retrieval only.
        pixel_random_sampling_size: number of grid cells that pretraining keeps in training mode; None: all.

    Raises:
        ValueError: naming the field, its value and what was expected.

    Example:
        >>> config = ClipBertConfig.tiny(answers=["red", "blue"])
        >>> model = ClipBertForOpenQA(config)
        >>> ClipBertConfig(score_aggregation="median")
        ValueError: score_aggregation is 'median': expected one of ['lse', 'mean', 'max'].
    """

    model_type = "clipbert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    vision: dict[str, Any] | None = None
    freeze_batch_norm: bool = True
    image_size: int = 448
    image_mean: list[float] | tuple[float, ...] = (123.675, 116.28, 103.53)
    image_std: list[float] | tuple[float, ...] = (1.0, 1.0, 1.0)
    max_grid_rows: int = 100
    max_grid_cols: int = 100

    clips: int = 8
    frames_per_clip: int = 2
    frame_fusion: str = "mean"
    max_frames_per_clip: int = 64
    max_text_length: int = 32
    score_aggregation: str = "lse"

    answers: list[str] | None = None
    answer_loss: str = "ce"
    retrieval_loss: str = "ce"
    ranking_margin: float = 0.2
    projection_size: int | None = None
    dual_encoder: dict[str, Any] | None = None
    cross_encoder: bool = True
    video_head: str = "encoder"
    pixel_random_sampling_size: int | None = 100

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision = {**RESNET50} if self.vision is None else dict(self.vision)
        self.dual_encoder = None if self.dual_encoder is None else dict(self.dual_encoder)
        self.image_mean, self.image_std = list(self.image_mean), list(self.image_std)
        super().__post_init__(**kwargs)
        self._check()

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read config.json as transformers does, after checking the checksums of the folder.

        Raises:
            ModelFolderError: config.json has changed since it was saved.
        """
        if Path(pretrained_model_name_or_path).is_dir():
            check_model(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""), weights=False)
        found: tuple[dict[str, Any], dict[str, Any]] = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return found

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Create a configuration as transformers does; config.json of a local folder is checked first.

        Raises:
            ModelFolderError: config.json has changed since it was saved.
        """
        source = kwargs.get("name_or_path") or config_dict.get("_name_or_path")
        if isinstance(source, str | Path) and source and Path(source).is_dir():
            check_model(Path(source), weights=False)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def base(cls, **overrides: Any) -> "ClipBertConfig":
        """Return the configuration of the paper: ResNet-50, BERT-base, 448 pixels, 8 clips of 2 frames."""
        return cls(**overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> "ClipBertConfig":
        """Return a configuration of 1.4 million parameters that trains from scratch on a CPU in minutes."""
        return cls(**(TINY | overrides))

    @classmethod
    def small(cls, **overrides: Any) -> "ClipBertConfig":
        """Return a configuration for pretrained parts that train on a CPU: EfficientNet-Lite0 and all-MiniLM-L6-v2."""
        return cls(**(SMALL | overrides))

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "ClipBertConfig":
        """Return the configuration of a preset of section `model`: "tiny", "small" or "base"."""
        presets = {"tiny": cls.tiny, "small": cls.small, "base": cls.base}
        return presets[name](**overrides)

    def _check(self) -> None:
        for name in POSITIVE:
            _require(_is_int(getattr(self, name)) and getattr(self, name) > 0, self, name, "an integer above 0")
        for name in ("projection_size", "pixel_random_sampling_size"):
            value = getattr(self, name)
            _require(value is None or (_is_int(value) and value > 0), self, name, "None or an integer above 0")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _require(_is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1, self, name, "in [0, 1)")
        _require(
            self.hidden_act in ACT2FN, self, "hidden_act", "an activation function of transformers, such as 'gelu'"
        )
        pad = self.pad_token_id
        allowed = f"None or an integer from 0 to {self.vocab_size - 1}"
        _require(pad is None or (_is_int(pad) and 0 <= pad < self.vocab_size), self, "pad_token_id", allowed)
        _require(isinstance(self.freeze_batch_norm, bool), self, "freeze_batch_norm", "true or false")
        for name in ("initializer_range", "layer_norm_eps"):
            _require(_is_number(getattr(self, name)) and getattr(self, name) > 0, self, name, "a number above 0")
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            self,
            "hidden_size",
            f"a multiple of num_attention_heads ({self.num_attention_heads})",
        )
        padded_text = -(-self.max_text_length // 8) * 8
        _require(
            padded_text <= self.max_position_embeddings,
            self,
            "max_text_length",
            f"at most max_position_embeddings ({self.max_position_embeddings}) after padding to a multiple of 8",
        )
        _require(self.score_aggregation in AGGREGATIONS, self, "score_aggregation", f"one of {list(AGGREGATIONS)}")
        _require(self.frame_fusion in FRAME_FUSIONS, self, "frame_fusion", f"one of {list(FRAME_FUSIONS)}")
        _require(
            self.frame_fusion not in WITH_FRAME_EMBEDDINGS or self.frames_per_clip <= self.max_frames_per_clip,
            self,
            "frames_per_clip",
            f"at most max_frames_per_clip ({self.max_frames_per_clip}) with frame_fusion {self.frame_fusion!r}",
        )
        _require(self.retrieval_loss in RETRIEVAL_LOSSES, self, "retrieval_loss", f"one of {list(RETRIEVAL_LOSSES)}")
        _require(self.answer_loss in ANSWER_LOSSES, self, "answer_loss", f"one of {list(ANSWER_LOSSES)}")
        _require(_is_number(self.ranking_margin) and self.ranking_margin >= 0, self, "ranking_margin", "0 or more")
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            _require(len(value) == 3 and all(_is_number(v) for v in value), self, name, "3 numbers (R, G, B)")
        _require(all(v > 0 for v in self.image_std), self, "image_std", "3 numbers above 0")
        answers = self.answers
        _require(
            answers is None
            or (
                isinstance(answers, list)
                and all(isinstance(answer, str) and answer for answer in answers)
                and len(set(answers)) == len(answers)
            ),
            self,
            "answers",
            "None or a list of different non-empty strings",
        )
        _require(isinstance(self.cross_encoder, bool), self, "cross_encoder", "true or false")
        _require(self.video_head in VIDEO_HEADS, self, "video_head", f"one of {list(VIDEO_HEADS)}")
        self._check_vision()
        if self.dual_encoder is not None:
            self._check_dual_encoder(self.dual_encoder)

    @property
    def dual_text_length(self) -> int:
        """Number of text positions of the pretrained dual encoder: 77 for CLIP, 64 for SigLIP; 0 without one."""
        if self.dual_encoder is None:
            return 0
        return int(dual_text_config(self.dual_encoder).max_position_embeddings)

    @property
    def embedding_tokens(self) -> int:
        """Number of rows of width `hidden_size` that hold a clip's embedding by the pretrained dual encoder."""
        if self.dual_encoder is None or self.projection_size is None:
            return 0
        return -(-self.projection_size // self.hidden_size)

    def _check_dual_encoder(self, dual: dict[str, Any]) -> None:
        kind = dual.get("model_type")
        if kind not in DUAL_ENCODERS:
            raise ValueError(f"dual_encoder.model_type is {kind!r}: expected one of {sorted(DUAL_ENCODERS)}.")
        vision = (self.vision or {}).get("model_type")
        if vision != f"{kind}_vision_model":
            raise ValueError(
                f"vision.model_type is {vision!r}: expected '{kind}_vision_model', the vision half of dual_encoder."
            )
        text = dual_text_config(dual)
        size = self.projection_size
        if size is None or (kind != "clip" and size != text.projection_size):
            expected = "an integer above 0" if kind == "clip" else f"{text.projection_size}, as in dual_encoder"
            raise ValueError(f"projection_size is {size}: expected {expected}.")

    def _check_vision(self) -> None:
        vision = self.vision
        assert vision is not None
        kind = vision.get("model_type")
        if kind not in BACKBONES and kind not in PATCH_ENCODERS:
            raise ValueError(
                f"vision.model_type is {kind!r}: expected one of {sorted([*BACKBONES, *PATCH_ENCODERS])}, the models "
                "with feature maps for transformers' AutoBackbone or with patch tokens."
            )
        if kind == "resnet":
            _check_resnet(vision)
        backbone = backbone_config(vision)
        channels = getattr(backbone, "num_channels", 3)
        if channels != 3:
            raise ValueError(f"vision.num_channels is {channels}: expected 3, for RGB frames.")
        # a plain ViT drops the pixels that do not fill a patch
        sized = isinstance(getattr(backbone, "patch_size", None), int) and not hasattr(backbone, "depths")
        if sized or kind in PATCH_ENCODERS:
            patch = patch_size(backbone)
            _require(self.image_size % patch == 0, self, "image_size", f"a multiple of vision.patch_size ({patch})")


def backbone_config(vision: dict[str, Any]) -> PreTrainedConfig:
    """Return the transformers configuration of `ClipBertConfig.vision`; a backbone's only output is its last stage.

    Raises:
        ValueError: a field that this kind of backbone does not accept.
    """
    fields = dict(vision)
    kind = fields.pop("model_type")
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[kind](**fields)
        if kind in PATCH_ENCODERS:
            return config
        config.out_features = [config.stage_names[-1]]
        if hasattr(config, "reshape_hidden_states"):
            config.reshape_hidden_states = True
    except Exception as error:  # the checks of transformers raise many types
        raise ValueError(f"vision: not a configuration of a {kind} backbone ({error}).") from error
    return config


def _check_resnet(vision: dict[str, Any]) -> None:
    for name in ("hidden_sizes", "depths"):
        value = vision.get(name, RESNET50[name])
        if not isinstance(value, list | tuple) or not value or not all(_is_int(v) and v > 0 for v in value):
            raise ValueError(f"vision.{name} is {value!r}: expected a list of integers above 0.")
    sizes, depths = (vision.get(name, RESNET50[name]) for name in ("hidden_sizes", "depths"))
    if len(sizes) != len(depths):
        raise ValueError(f"vision.depths is {depths!r}: expected {len(sizes)} values, as many as vision.hidden_sizes.")
    if vision.get("layer_type", "bottleneck") not in ("basic", "bottleneck"):
        raise ValueError(f"vision.layer_type is {vision['layer_type']!r}: expected 'basic' or 'bottleneck'.")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(met: bool, config: ClipBertConfig, name: str, allowed: str) -> None:
    if not met:
        raise ValueError(f"{name} is {getattr(config, name)!r}: expected {allowed}.")
