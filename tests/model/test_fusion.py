import pytest
import torch

from clipbert.model import ClipBertForRetrieval
from clipbert.model.fusion import VisualEmbeddings


def fused(config, grids):
    torch.manual_seed(0)
    return VisualEmbeddings(config).eval()(grids)


@pytest.fixture
def grids():
    return torch.randn(2, 3, 2, 4, 24, generator=torch.Generator().manual_seed(1))


def test_mean_is_the_papers_and_has_no_further_weights(small_config, grids):
    torch.manual_seed(0)
    module = VisualEmbeddings(small_config()).eval()
    assert not [name for name in module.state_dict() if "frame" in name or "temporal" in name]
    rows, cols = module.row_position_embeddings.weight, module.col_position_embeddings.weight
    cells = [
        grids[:, :, r, c].mean(1) + rows[r] + cols[c] + module.token_type_embeddings.weight[0]
        for r in range(2)
        for c in range(4)
    ]
    torch.testing.assert_close(module(grids), module.LayerNorm(torch.stack(cells, 1)))


@pytest.mark.parametrize(("fusion", "tokens"), [("concat", 24), ("attention", 8), ("conv3d", 8)])
def test_every_other_fusion_sees_the_order_of_frames(small_config, grids, fusion, tokens):
    config = small_config(frame_fusion=fusion)
    forth, back = fused(config, grids), fused(config, grids.flip(1))
    assert forth.shape == (2, tokens, 24)
    if fusion == "concat":
        back = back.view(2, 3, 8, 24).flip(1).flatten(1, 2)
    assert (forth - back).abs().max() > 1e-2


def test_mean_does_not_see_the_order(small_config, grids):
    torch.testing.assert_close(fused(small_config(), grids), fused(small_config(), grids.flip(1)))


def test_conv3d_takes_clips_of_any_length_and_adds_to_the_mean(small_config, grids):
    config = small_config(frame_fusion="conv3d", max_frames_per_clip=2)
    module = VisualEmbeddings(config).eval()
    assert "frame_position_embeddings.weight" not in module.state_dict()
    assert module(grids[:, :1]).shape == module(grids).shape == (2, 8, 24)
    for weight in module.temporal_convolution.convolution.parameters():
        torch.nn.init.zeros_(weight)
    mean = VisualEmbeddings(small_config()).eval()
    mean.load_state_dict(module.state_dict(), strict=False)
    torch.testing.assert_close(module(grids), mean(grids))


@pytest.mark.parametrize("motion", [1, -1])
def test_conv3d_tells_the_direction_of_a_moving_cell_at_once(small_config, motion):
    """A filter for motion to the right answers to it, wherever it is, and not to motion to the left."""
    module = VisualEmbeddings(small_config(frame_fusion="conv3d")).temporal_convolution
    grids = torch.zeros(1, 3, 1, 7, 24)
    for frame in range(3):
        grids[0, frame, 0, 3 + motion * (frame - 1), 0] = 1.0
    module.norm = torch.nn.Identity()
    with torch.no_grad():
        torch.nn.init.zeros_(module.convolution.weight)
        torch.nn.init.constant_(module.convolution.bias, -2.5)
        for frame in range(3):
            module.convolution.weight[0, 0, frame, 1, frame] = 1.0
        found = module(grids) - grids.mean(dim=1)
    assert (found.abs().max() > 0.1) == (motion == 1)


@pytest.mark.parametrize("fusion", ["mean", "concat", "attention", "conv3d"])
def test_gradients_reach_both_ends_and_the_model_reloads(small_config, inputs, tmp_path, fusion):
    model = ClipBertForRetrieval(small_config(frame_fusion=fusion))
    model(**inputs.arguments(), labels=torch.tensor([1, 0, 1])).loss.backward()
    assert model.clipbert.vision.backbone.embedder.embedder.convolution.weight.grad.abs().sum() > 0
    assert model.clipbert.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    for name, weight in model.clipbert.visual_embeddings.named_parameters():
        assert weight.grad is not None, name
    model.save_pretrained(tmp_path)
    again = ClipBertForRetrieval.from_pretrained(tmp_path)
    assert torch.equal(
        model.eval().clipbert.encode_video(inputs.pixel_values), again.eval().clipbert.encode_video(inputs.pixel_values)
    )


@pytest.mark.parametrize("fusion", ["concat", "attention"])
def test_more_frames_than_embeddings_fail(small_config, grids, fusion):
    config = small_config(frame_fusion=fusion, frames_per_clip=2, max_frames_per_clip=2)
    with pytest.raises(ValueError, match=r"clips of 3 frames, but config\.max_frames_per_clip is 2"):
        fused(config, grids)
    with pytest.raises(ValueError, match="frames_per_clip is 3: expected at most max_frames_per_clip"):
        small_config(frame_fusion=fusion, frames_per_clip=3, max_frames_per_clip=2)


def test_an_unknown_fusion_fails(small_config):
    with pytest.raises(ValueError, match="frame_fusion is 'sum'"):
        small_config(frame_fusion="sum")


@pytest.mark.parametrize("fusion", ["mean", "concat", "attention", "conv3d"])
def test_eager_and_sdpa_agree(small_config, inputs, tmp_path, fusion):
    ClipBertForRetrieval(small_config(frame_fusion=fusion)).save_pretrained(tmp_path)
    outputs = []
    for kind in ("eager", "sdpa"):
        model = ClipBertForRetrieval.from_pretrained(tmp_path, attn_implementation=kind).eval()
        assert model.clipbert.encoder.config._attn_implementation == kind
        outputs.append(model(**inputs.arguments()).logits)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
