"""Model folders with random weights that load and run in milliseconds."""

from pathlib import Path
from typing import Any

import torch

from clipbert.model import ClipBertConfig, ClipBertProcessor

TEXTS = ("a red circle", "what color is it and where does it go", "blue")


def save_small_model(folder: Path, kind: type[Any], scale: float = 1.0, **fields: Any) -> Path:
    """Write a model of a class with its processor into a folder, and return the folder.

    Args:
        scale: multiplies all weights, so that scores differ more.
        fields: of the configuration, besides the sizes.
    """
    torch.manual_seed(0)
    tokenizer = ClipBertProcessor.train_tokenizer([*TEXTS, *TEXTS])
    config = ClipBertConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 32,
            "vision": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1]},
            "image_size": 64,
            "clips": 2,
            "frames_per_clip": 1,
            "answers": ["red", "blue", "two"],
            **fields,
        }
    )
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    model.save_pretrained(folder)
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained(folder)
    return folder
