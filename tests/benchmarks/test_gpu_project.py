"""The data of the GPU kit: a project packed small, and drawn pictures."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from benchmarks.gpu.project import PARTS, draw, draw_project, open_project, pack, pack_part, texts_of
from benchmarks.train_step import fitting_videos
from clipbert.data.manifest import read_texts
from clipbert.files.checksums import check_files
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertProcessor

SPLITS = {"train": 3, "val": 1, "test": 2}


def text_part(folder: Path, texts: list[str]) -> BertModel:
    """Write a small text encoder with a tokenizer of `texts`."""
    tokenizer = ClipBertProcessor.train_tokenizer(texts, vocab_size=200)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes))
    model.save_pretrained(folder)
    return model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A project of drawn videos with both parts."""
    root = tmp_path / "source"
    draw_project(root, SPLITS, 32, frames=6)
    text_part(root / PARTS["text"], ["a red circle on green", "number one", "zebra umbrella"])
    (root / PARTS["vision"]).mkdir(parents=True)
    save_file({"w": torch.full((2,), 1.5)}, root / PARTS["vision"] / "model.safetensors")
    return root


def test_a_drawn_project_has_frames_and_captions(tmp_path: Path) -> None:
    project = draw_project(tmp_path, SPLITS, 32)
    texts, cache = read_texts(project.manifest), FrameCache(project.frames)
    assert set(texts["kind"]) == {"caption", "open_qa", "multiple_choice"}
    texts = texts[texts["kind"] == "caption"]
    assert texts["split"].tolist() == ["train"] * 3 + ["val"] + ["test"] * 2
    assert cache.media == texts["media"].tolist()
    assert cache.read(texts["media"][0], [0, 3]).shape == (2, 32, 32, 3)
    assert cache.settings["size"] == 32
    assert texts["text"].is_unique


def test_pictures_show_their_texts_and_move() -> None:
    image = draw(0, 0, 64)
    caption, question, choice = texts_of(0, "0.mp4", "train")
    assert caption["text"] == "a red circle on green, number 0"
    assert question["answer"] == choice["options"][choice["answer_index"]] == "red"
    assert np.abs(image.reshape(-1, 3).astype(int) - (200, 40, 40)).sum(axis=1).min() < 10
    assert not np.array_equal(image, draw(0, 1, 64))
    assert np.array_equal(image, draw(0, 0, 64))


def test_a_pack_has_fewer_frames_and_weights_in_16_bits(source: Path, tmp_path: Path) -> None:
    size = pack(source, tmp_path / "work" / "project.tar.gz", frames=2)
    assert size == (tmp_path / "work" / "project.tar.gz").stat().st_size
    project, data = open_project(tmp_path / "work")
    assert data == "videos of a project"
    whole, small = FrameCache(source / "artifacts" / "frames"), FrameCache(project.frames)
    assert small.media == whole.media
    media = whole.media[0]
    assert small[media].times.tolist() == whole[media].times[[0, -1]].tolist()
    difference = small.read(media, [1]).astype(int) - whole.read(media, [5])
    assert np.abs(difference).mean() < 20  # another JPEG quality of the same frame
    assert small.settings["max_frames"] == 2
    assert read_texts(project.manifest).equals(read_texts(source / "artifacts" / "manifest"))
    vision = load_file(project.root / PARTS["vision"] / "model.safetensors")["w"]
    assert (vision.dtype, vision.tolist()) == (torch.float16, [1.5, 1.5])
    assert open_project(tmp_path / "work")[0].root == project.root  # unpacked once


def test_words_of_the_texts_keep_their_vectors(tmp_path: Path) -> None:
    model = text_part(tmp_path / "part", ["a red circle", "zebra umbrella"])
    pack_part(tmp_path / "part", tmp_path / "packed", ["a red circle"])
    check_files(tmp_path / "packed")
    packed = load_file(tmp_path / "packed" / "model.safetensors")["embeddings.word_embeddings.weight"].float()
    words = model.get_input_embeddings().weight.detach()
    tokenizer = ClipBertProcessor.train_tokenizer(["a red circle", "zebra umbrella"], vocab_size=200)
    kept = tokenizer("a red circle")["input_ids"]
    torch.testing.assert_close(packed[kept], words[kept], atol=1e-3, rtol=1e-3)
    others = sorted(set(tokenizer("zebra umbrella")["input_ids"]) - set(kept))
    assert packed[others].abs().sum() == 0
    assert words[others].abs().sum() > 0


def test_a_project_without_parts_is_refused(tmp_path: Path) -> None:
    draw_project(tmp_path / "source", SPLITS, 32)
    with pytest.raises(SystemExit, match=r"models/efficientnet-lite0: no weights for model\.vision"):
        pack(tmp_path / "source", tmp_path / "project.tar.gz")


def test_a_pack_that_cannot_travel_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="Give fewer --frames or a lower --quality"):
        pack(source, tmp_path / "project.tar.gz", largest=1000)
    assert not (tmp_path / "project.tar.gz").exists()


def test_a_tar_file_that_was_cut_off_leaves_nothing(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "work" / "project.tar.gz"
    pack(source, archive)
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises((EOFError, tarfile.ReadError)):
        open_project(tmp_path / "work")
    assert [path.name for path in (tmp_path / "work").glob("packed-*")] == []


@pytest.mark.parametrize(
    ("free", "ways", "one", "two", "videos"),
    [
        (80e9, 3, 5e9, 6e9, 16),  # 22.7 GB each, less 1 GB of CUDA and 4 GB of the model: 17 videos
        (80e9, 1, 5e9, 6e9, 32),  # never more
        (20e9, 3, 5e9, 8e9, 1),
        (8e9, 3, 5e9, 8e9, 1),  # a try with one says what happens
    ],
)
def test_videos_that_fit_side_by_side(free: float, ways: int, one: float, two: float, videos: int) -> None:
    assert fitting_videos(int(free), ways, int(one), int(two)) == videos
