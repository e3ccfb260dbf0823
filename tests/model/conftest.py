from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from clipbert.model import ClipBertConfig


@dataclass
class Inputs:
    """Two videos of two clips of two 64 x 96 frames; three texts of 6, 4 and 5 tokens, two of them of the first."""

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    texts_per_video: Tensor

    def arguments(self) -> dict[str, Tensor]:
        return dict(vars(self))


@pytest.fixture
def inputs() -> Inputs:
    random = torch.Generator().manual_seed(7)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    return Inputs(
        pixel_values=torch.randint(0, 256, (2, 2, 2, 3, 64, 96), generator=random, dtype=torch.uint8),
        input_ids=torch.randint(5, 40, (3, 6), generator=random) * mask,
        attention_mask=mask,
        texts_per_video=torch.tensor([2, 1]),
    )


@pytest.fixture
def small_config() -> Callable[..., ClipBertConfig]:
    """A ClipBERT of the paper's kind (bottleneck blocks, frozen batch norm, stride in the first 1x1), but small."""

    def make(**overrides: Any) -> ClipBertConfig:
        fields: dict[str, Any] = {
            "vocab_size": 40,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 32,
            "max_position_embeddings": 16,
            "max_text_length": 16,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "vision": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [16, 16, 24],
                "depths": [2, 1, 1],
                "layer_type": "bottleneck",
                "downsample_in_bottleneck": True,
            },
            "image_std": [58.0, 57.0, 56.0],
            "image_size": 96,
            "max_grid_rows": 4,
            "max_grid_cols": 5,
            "answers": ["red", "blue", "two", "left", "right"],
        }
        return ClipBertConfig(**(fields | overrides))

    return make


@pytest.fixture
def randomized() -> Callable[[PreTrainedModel], PreTrainedModel]:
    """Every weight and statistic of a model drawn again, so that no zero bias or unit scale hides a mistake."""

    def draw(model: PreTrainedModel) -> PreTrainedModel:
        random = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if not value.is_floating_point():
                    continue
                noise = torch.randn(value.shape, generator=random, dtype=torch.float32).to(value.dtype)
                if "running_var" in name or (value.ndim == 1 and name.endswith("weight")):
                    value.copy_(1 + 0.2 * noise.clamp(-2, 2))
                else:
                    value.copy_(noise * (0.3 if value.ndim < 3 else (2 / value[0].numel()) ** 0.5))
        return model.eval()

    return draw
