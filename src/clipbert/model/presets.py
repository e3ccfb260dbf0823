"""Fields of the presets of `ClipBertConfig`, which differ from its defaults, those of the paper."""

from typing import Any

# ResNet-50 of the paper: the stride is in the first 1x1 convolution of each stage's first block.
RESNET50 = {
    "model_type": "resnet",
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "downsample_in_bottleneck": True,
    "downsample_in_first_stage": False,
}
RESNET_TINY = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [32, 64, 128],
    "depths": [1, 1, 1],
    "layer_type": "basic",
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
}
TINY: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
    "max_text_length": 64,
    "initializer_range": 0.04,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "vision": RESNET_TINY,
    "freeze_batch_norm": False,
    "image_size": 96,
    "image_mean": [127.5, 127.5, 127.5],
    "image_std": [63.75, 63.75, 63.75],
    "clips": 1,
    "frames_per_clip": 1,
    "projection_size": 128,
}
SMALL: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "intermediate_size": 1536,
    "max_text_length": 48,
    "vision": {"model_type": "efficientnet_lite"},
    "image_size": 224,
    "image_mean": [127.0, 127.0, 127.0],
    "image_std": [128.0, 128.0, 128.0],
    "clips": 1,
}
