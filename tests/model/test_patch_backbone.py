"""ViT, CLIP, SigLIP and SigLIP 2 as backbones: the grid is transformers' patch tokens, at any image size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dual_encoders import KINDS, reference, siglip2_inputs, write_dual_encoder, write_vit
from transformers import ViTModel

from clipbert.config.schema import Params
from clipbert.model import ClipBertProcessor, load
from clipbert.model.patch_backbone import PatchBackbone, native_image_size
from clipbert.model.weights.pretrained import read_vision
from clipbert.tasks import make_task
from clipbert.tasks.batch import Example
from clipbert.training.setup import build_model

SOURCES = ("vit", *KINDS)
EXAMPLE = Example("v", ["q", "r"], ["what color is it", "is it blue"], ["red", "blue"], ["", ""])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of `SOURCES`, by its name."""
    root = tmp_path_factory.mktemp("patch_encoders")
    write_vit(root / "vit")
    for kind in KINDS:
        write_dual_encoder(kind, root / kind)
    return root


def build(source: Path, image_size: int = 48) -> tuple[Any, ClipBertProcessor]:
    """Build an open QA model whose backbone is that of the folder."""
    model = {"vision": str(source), "image_size": image_size, "num_attention_heads": 2}
    params = Params.model_validate({"model": model})
    task = make_task("open_qa", params.tasks)
    return build_model(task, [EXAMPLE], params.model, params.frames, params.evaluate.clips)


def tokens_of(kind: str, source: Path, pixels: torch.Tensor) -> torch.Tensor:
    """Return transformers' patch tokens of normalized images as a grid (M, channels, h, w)."""
    size = pixels.shape[-1] // 8
    if kind == "vit":
        model = ViTModel.from_pretrained(source, local_files_only=True).eval()
    else:
        model = reference(kind, source).vision_model
    inputs = (
        siglip2_inputs(pixels, 8) if kind == "siglip2" else {"pixel_values": pixels, "interpolate_pos_encoding": True}
    )
    tokens = model(**inputs).last_hidden_state[:, -size * size :]
    return tokens.transpose(1, 2).unflatten(2, (size, size))


@pytest.mark.parametrize("image_size", [48, 64])
@pytest.mark.parametrize("kind", SOURCES)
@torch.no_grad()
def test_the_grid_is_the_patch_tokens_of_transformers(kind: str, image_size: int, sources: Path) -> None:
    model, _ = build(sources / kind, image_size)
    vision = model.clipbert.vision.eval()
    frames = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
    expected = tokens_of(kind, sources / kind, vision.normalize(frames))
    assert expected.std() > 0.1
    torch.testing.assert_close(vision.backbone(vision.normalize(frames)).feature_maps[0], expected, rtol=0, atol=1e-5)
    grid = torch.relu(vision.pool(vision.projection(expected))).permute(0, 2, 3, 1)
    torch.testing.assert_close(vision(frames), grid, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_weight_of_the_backbone_gets_a_gradient(kind: str, sources: Path) -> None:
    model, _ = build(sources / kind)
    model.train()
    pixels = torch.randint(0, 256, (2, 1, 1, 3, 48, 48), dtype=torch.uint8)
    model(pixels, torch.tensor([[2, 10, 11, 3]] * 2), labels=torch.tensor([0, 1])).loss.backward()
    without = [name for name, value in model.clipbert.vision.named_parameters() if value.grad is None]
    assert without == []


@pytest.mark.parametrize("kind", SOURCES)
def test_a_saved_model_needs_its_source_no_more(kind: str, sources: Path, tmp_path: Path) -> None:
    model, processor = build(sources / kind)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pixels = torch.randint(0, 256, (1, 2, 1, 3, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(load(tmp_path).encode_video(pixels), model.encode_video(pixels))
    assert str(sources) not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(
    ("kind", "mean", "remark"),
    [
        ("vit", [127.5] * 3, "normalization of ViT and SigLIP"),
        ("clip", [122.4, 117.3, 104.55], "its own normalization (preprocessor_config.json)"),
        ("siglip", [127.5] * 3, "its own normalization (preprocessor_config.json)"),
    ],
)
def test_the_normalization_is_its_own(kind: str, mean: list[float], remark: str, sources: Path) -> None:
    part = read_vision(str(sources / kind))
    assert part.fields["image_mean"] == pytest.approx(mean)
    assert part.remark == f"patch tokens; {remark}"


def test_clip_without_a_preprocessor_has_clips_normalization(sources: Path, tmp_path: Path) -> None:
    reference("clip", sources / "clip").save_pretrained(tmp_path)
    part = read_vision(str(tmp_path))
    assert part.fields["image_mean"] == pytest.approx([122.771, 116.746, 104.094], abs=1e-3)
    assert part.remark == "patch tokens; normalization of CLIP"


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(sources: Path) -> None:
    vision = read_vision(str(sources / "siglip")).fields["vision"]
    assert native_image_size(vision) == 48
    with pytest.raises(ValueError, match=r"pixel_values of 48 x 50 pixels: expected multiples of the patch size 8\."):
        PatchBackbone(vision, pooled=False)(torch.zeros(1, 3, 48, 50))
