"""The folded ResNet of training against transformers' own forward: features and gradients, and where it is used."""

import copy

import pytest
import torch

from clipbert.model import ClipBertConfig
from clipbert.model.backbones import can_fold_batch_norm, forward_folded
from clipbert.model.vision import GridEncoder


def grid_encoder(**vision):
    fields = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [16, 16, 24],
        "depths": [2, 1, 3],
        "layer_type": "bottleneck",
        "downsample_in_bottleneck": True,
    }
    config = ClipBertConfig.tiny(vision=fields | vision, freeze_batch_norm=True, hidden_size=24)
    torch.manual_seed(0)
    encoder = GridEncoder(config).double()
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if "running_var" in name or "normalization.weight" in name:
                value.uniform_(0.5, 2)
            elif "running_mean" in name or name.endswith("normalization.bias"):
                value.normal_()
    return encoder.train()


KINDS = [
    {},
    {"downsample_in_bottleneck": False},
    {"layer_type": "basic"},
    {"downsample_in_first_stage": True},
    {"hidden_act": "gelu"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", [(64, 96), (75, 53)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_same_features_and_gradients(kind, size, checkpointing):
    ours, theirs = grid_encoder(**kind).backbone, grid_encoder(**kind).backbone
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    found, expected = forward_folded(ours, pixels, checkpointing), theirs(pixels).feature_maps[-1]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-8, msg=name)
        else:
            assert one.grad is None


def test_fewer_operations_than_the_plain_forward():
    from torch.utils.flop_counter import FlopCounterMode

    backbone, counts = grid_encoder(depths=[2, 2, 2], hidden_sizes=[64, 128, 256], embedding_size=16).backbone, []
    for forward in (lambda pixels: forward_folded(backbone, pixels), backbone):
        with FlopCounterMode(display=False) as counter:
            forward(torch.zeros(1, 3, 64, 64, dtype=torch.float64))
        counts.append(counter.get_total_flops())
    assert counts[0] < 0.9 * counts[1]


def test_evaluation_and_live_batch_norms_take_the_plain_forward():
    frozen = grid_encoder()
    assert can_fold_batch_norm(frozen.backbone)
    live = GridEncoder(ClipBertConfig.tiny()).train()
    assert not can_fold_batch_norm(live.backbone)
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    plain = copy.deepcopy(frozen).eval()
    features = plain.backbone(plain.normalize(frames).contiguous(memory_format=torch.channels_last)).feature_maps[-1]
    expected = torch.relu(plain.pool(plain.projection(features))).permute(0, 2, 3, 1)
    assert torch.equal(plain(frames), expected)
    torch.testing.assert_close(frozen(frames), expected, rtol=1e-9, atol=1e-9)
