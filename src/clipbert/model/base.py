"""Base class of all ClipBERT models."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLMPredictionHead

from clipbert.files.leftovers import follow_umask
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.vision import Normalize
from clipbert.model.weights.checksums import check_model, sign_model


class ClipBertPreTrainedModel(PreTrainedModel):
    """Base class of all ClipBERT models: configuration, initialization, attention backends, signed model folders."""

    config_class = ClipBertConfig
    base_model_prefix = "clipbert"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ("BertEmbeddings", "BertLayer", "VisualEmbeddings")

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the model as transformers does, with the checksums that `from_pretrained` checks.

        Raises:
            ModelFolderError: the folder already holds checksums, and they are damaged.
        """
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        if folder.is_dir():
            for weights in folder.glob("model*.safetensors"):
                follow_umask(weights)  # safetensors creates files with mode 0600
            sign_model(folder)

    @property
    def input_device(self) -> torch.device | None:
        """Device of the inputs; None where accelerate's hooks move them, as with a `device_map`."""
        return None if any(hasattr(module, "_hf_hook") for module in (self, *self.children())) else self.device

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the model as transformers does, after checking every file of a local folder against its checksum.

        Raises:
            ModelFolderError: a file has changed since it was saved.
        """
        if isinstance(pretrained_model_name_or_path, str | Path) and Path(pretrained_model_name_or_path).is_dir():
            check_model(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, str], allow_all_kernels: bool = False
    ) -> None:
        """Set the attention implementation of the encoder only; the backbone keeps its own.

        The method of transformers also sets it on the backbone and raises for one without attention, such as ResNet.

        Raises:
            ValueError: unknown implementation, or one that this model does not support.
            ImportError: the implementation needs a package that is not installed.
        """
        if isinstance(attn_implementation, dict):
            attn_implementation = attn_implementation.get("", self.config._attn_implementation)
        self.config._attn_implementation = self._check_and_adjust_attn_implementation(
            attn_implementation, is_init_check=False, allow_all_kernels=allow_all_kernels
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BertLMPredictionHead):
            init.zeros_(module.bias)
        elif isinstance(module, BertEmbeddings):
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[-1]).expand((1, -1)))
            init.zeros_(module.token_type_ids)
        elif isinstance(module, Normalize):
            init.copy_(module.mean, module.values("image_mean"))
            init.copy_(module.std, module.values("image_std"))
