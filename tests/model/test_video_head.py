"""The direct video head: what a video's and a text's vector are made of, and what a model with it can't do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from clipbert.model import ClipBertConfig, ClipBertForRetrieval, load
from clipbert.model.inputs import check_frame_features

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "vision": {"model_type": "resnet", "hidden_sizes": [8, 12], "depths": [1, 1], "embedding_size": 8},
}


def make_model(**fields: Any) -> ClipBertForRetrieval:
    torch.manual_seed(0)
    return ClipBertForRetrieval(ClipBertConfig.tiny(**(SIZES | {"video_head": "direct"} | fields))).eval()


def make_pixels(videos: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (videos, 2, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)


IDS = torch.tensor([[2, 7, 8, 9, 3, 0], [2, 11, 3, 0, 0, 0], [2, 7, 8, 9, 10, 3]])
MASK = (IDS > 0).long()


@pytest.mark.parametrize("cross_encoder", [True, False])
@torch.no_grad()
def test_a_video_is_the_mean_of_its_frames_embeddings(cross_encoder: bool) -> None:
    model, pixels = make_model(cross_encoder=cross_encoder), make_pixels()
    embeds = model.encode_video(pixels)
    assert embeds.shape == (3, 2, 5 if cross_encoder else 1, 16)
    head = model.direct
    assert head is not None
    maps = model.clipbert.vision.feature_maps(pixels.flatten(0, 2))
    normalized = functional.layer_norm(maps.mean(dim=(-2, -1)), (12,))
    frames = functional.linear(normalized, head.linear.weight, head.linear.bias) + head.mlp(normalized)
    expected = functional.normalize(frames.view(3, 4, 16).mean(dim=1), dim=-1)
    assert torch.allclose(model.get_video_features(embeds), expected, atol=1e-5)


@torch.no_grad()
def test_a_text_is_its_mean_state() -> None:
    model = make_model(cross_encoder=False)
    states = model.clipbert.encode(model.clipbert.embeddings(input_ids=IDS), MASK)
    means = torch.stack([row[: int(mask.sum())].mean(dim=0) for row, mask in zip(states, MASK, strict=True)])
    expected = functional.normalize(means, dim=-1)
    assert torch.allclose(model.get_text_features(IDS, MASK), expected, atol=1e-6)
    packed, videos = model.get_text_and_video_features(IDS, MASK, model.encode_video(make_pixels()))
    assert torch.allclose(packed, expected, atol=1e-5)
    similarity = model.similarity(packed, videos)
    assert torch.allclose(similarity, packed @ videos.T / 0.07, atol=1e-3)


@pytest.mark.parametrize("cross_encoder", [True, False])
@torch.no_grad()
def test_features_of_frames_give_the_same_as_pixels(cross_encoder: bool) -> None:
    model, pixels = make_model(cross_encoder=cross_encoder), make_pixels()
    features = model.frame_features(pixels.flatten(0, 2))
    assert features.shape == ((12, 12, 4, 4) if cross_encoder else (12, 12))
    encoded = model.encode_features(features.unflatten(0, (3, 2, 2)))
    assert torch.allclose(encoded, model.encode_video(pixels), atol=1e-5)
    with pytest.raises(ValueError, match=r"frame_features has shape \(12, 12.*expected floating point"):
        model.encode_features(features)


@torch.no_grad()
def test_a_cross_encoder_reads_the_tokens_without_the_embedding() -> None:
    model, pixels = make_model(), make_pixels()
    plain = ClipBertForRetrieval(ClipBertConfig.tiny(**SIZES)).eval()
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("contrast.")}
    plain.load_state_dict(shared, strict=False)
    expected = plain(pixels, input_ids=IDS, attention_mask=MASK).logits
    assert torch.allclose(model(pixels, input_ids=IDS, attention_mask=MASK).logits, expected, atol=1e-5)
    embeds = model.encode_video(pixels)
    logits = model(visual_embeds=embeds, input_ids=IDS, attention_mask=MASK).logits
    assert torch.allclose(logits, expected, atol=1e-5)


def test_without_cross_encoder_there_are_no_logits_and_only_what_is_used_trains() -> None:
    model = make_model(cross_encoder=False)
    with pytest.raises(ValueError, match=r"has no logits of pairs\. Use get_text_features"):
        model(make_pixels(), input_ids=IDS, attention_mask=MASK)
    model.freeze_cross_encoder()
    model.train()
    text, video = model.get_text_and_video_features(IDS, MASK, model.encode_video(make_pixels()))
    model.similarity(text, video).diag().sum().backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model, pixels = make_model(cross_encoder=False), make_pixels()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path).encode_video(pixels), model.encode_video(pixels))


def test_the_configuration_names_a_wrong_head() -> None:
    with pytest.raises(ValueError, match=r"video_head is 'mean': expected one of \['encoder', 'direct'\]"):
        ClipBertConfig.tiny(video_head="mean")
    with pytest.raises(ValueError, match="expected floating point"):
        check_frame_features(torch.zeros(1, 1, 1, 12, dtype=torch.int64), 12, maps=False)


def test_the_small_preset_has_the_sizes_of_its_parts() -> None:
    config = ClipBertConfig.preset("small")
    assert (config.hidden_size, config.num_hidden_layers, config.image_size) == (384, 6, 224)
    assert config.vision is not None
    assert config.vision["model_type"] == "efficientnet_lite"
