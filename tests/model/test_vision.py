import pytest
import torch
from torch import nn

from clipbert.model import ClipBertConfig, ClipBertForOpenQA, ClipBertForRetrieval


def batch_norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def train_step(model, inputs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    model(**inputs.arguments(), labels=torch.tensor([1, 0, 1])).loss.backward()
    optimizer.step()


def test_gradients_reach_the_pixels_end_and_the_words(small_config, inputs):
    model = ClipBertForRetrieval(small_config())
    train_step(model, inputs)
    assert model.clipbert.vision.backbone.embedder.embedder.convolution.weight.grad.abs().sum() > 0
    assert model.clipbert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_frozen_batch_norm_neither_learns_nor_moves(small_config, inputs):
    model = ClipBertForRetrieval(small_config())
    before = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in batch_norms(model)]
    train_step(model, inputs)
    assert model.training
    for norm, state in zip(batch_norms(model), before, strict=True):
        assert not norm.training
        assert norm.weight.grad is None
        assert norm.bias.grad is None
        for name, value in norm.state_dict().items():
            assert torch.equal(value, state[name])


def test_trainable_batch_norm_learns_and_moves(small_config, inputs):
    model = ClipBertForRetrieval(small_config(freeze_batch_norm=False))
    train_step(model, inputs)
    for norm in batch_norms(model):
        assert norm.training
        assert norm.weight.grad is not None
        assert norm.running_mean.abs().sum() > 0


def test_uint8_and_float_pixels_are_the_same(small_config, inputs):
    model = ClipBertForRetrieval(small_config()).eval()
    as_uint8 = model.encode_video(inputs.pixel_values)
    assert torch.equal(as_uint8, model.encode_video(inputs.pixel_values.float()))


def test_normalisation_is_the_configured_one(small_config, inputs):
    plain = ClipBertForRetrieval(small_config(image_mean=[0.0, 0.0, 0.0], image_std=[1.0, 1.0, 1.0])).eval()
    scaled = ClipBertForRetrieval(small_config(image_mean=[10.0, 20.0, 30.0], image_std=[2.0, 4.0, 5.0])).eval()
    scaled.load_state_dict(plain.state_dict())
    mean, std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2.0, 4.0, 5.0])
    by_hand = (inputs.pixel_values.float() - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(scaled.encode_video(inputs.pixel_values), plain.encode_video(by_hand))


def test_order_of_frames_in_a_clip_does_not_matter_but_place_in_the_picture_does(small_config, inputs):
    model = ClipBertForRetrieval(small_config()).eval()
    visual = model.encode_video(inputs.pixel_values)
    torch.testing.assert_close(model.encode_video(inputs.pixel_values.flip(2)), visual, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.encode_video(inputs.pixel_values.flip(5)), visual, atol=1e-3)


def test_a_grid_larger_than_the_embeddings_is_refused(small_config, inputs):
    model = ClipBertForRetrieval(small_config(max_grid_cols=2))
    message = "pixel_values give a grid of 2 x 3 cells, but config.max_grid_cols is 2"
    with pytest.raises(ValueError, match=message):
        model.encode_video(inputs.pixel_values)


def test_frames_too_small_for_a_cell_are_refused():
    model = ClipBertForRetrieval(ClipBertConfig.tiny()).eval()
    with pytest.raises(ValueError, match="pixel_values of 16 x 16 pixels give a feature map of 1 x 1: expected at"):
        model.encode_video(torch.zeros(1, 1, 1, 3, 16, 16))


def test_tiny_learns_the_colour_of_a_video():
    torch.manual_seed(0)
    config = ClipBertConfig.tiny(vocab_size=40, image_size=64, num_hidden_layers=2, answers=["red", "green", "blue"])
    model = ClipBertForOpenQA(config).train()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    pixels = torch.randint(0, 60, (6, 1, 1, 3, 64, 64), dtype=torch.uint8)
    for number, label in enumerate(labels):
        pixels[number, :, :, label, 16:48, 16:48] = 255
    ids = torch.tensor([[2, 10, 11, 3]] * 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        loss = model(pixels, ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
