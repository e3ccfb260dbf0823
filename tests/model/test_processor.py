import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError, ModelFolderError
from clipbert.model import ClipBertConfig, ClipBertForRetrieval, ClipBertProcessor
from clipbert.model.weights.checksums import sign_files


@pytest.fixture(scope="module")
def tokenizer():
    return ClipBertProcessor.train_tokenizer(["a red circle moves left", "the blue square stays"] * 2, vocab_size=120)


@pytest.fixture
def processor(tokenizer):
    return ClipBertProcessor(tokenizer, image_size=32, clips=2, frames_per_clip=2, max_text_length=10)


def video(frames=6, height=32, width=32):
    """Frame i is filled with the gray 10 * i."""
    return np.stack([np.full((height, width, 3), 10 * i, dtype=np.uint8) for i in range(frames)])


def test_the_asked_frames_in_the_asked_places(processor):
    indices = [[[0, 1], [4, 5], [2, 2]], [[3, 2], [1, 0], [5, 0]]]
    pixels = processor(frames=[video(), video()], clip_indices=indices)["pixel_values"]
    assert pixels.shape == (2, 3, 2, 3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels[..., 0, 5, 5].int(), 10 * torch.tensor(indices))


def test_uniform_clips_when_nothing_is_asked(processor):
    pixels = processor(frames=[video(8)])["pixel_values"]
    assert pixels.shape == (1, 2, 2, 3, 32, 32)
    shown = pixels[0, :, :, 0, 0, 0].flatten().tolist()
    assert shown == sorted(shown)
    assert shown[0] < 40 <= shown[-1]


def test_channels_stay_rgb_and_come_first(processor):
    frame = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    frame[..., 0], frame[..., 2] = 200, 100
    pixels = processor(frames=[frame], clip_indices=[[[0]]])["pixel_values"]
    assert pixels[0, 0, 0, :, 3, 3].tolist() == [200, 0, 100]


@pytest.mark.parametrize(("height", "width", "filled"), [(32, 64, (16, 32)), (50, 25, (32, 16)), (8, 16, (16, 32))])
def test_longer_side_is_resized_and_the_rest_is_zero(processor, height, width, filled):
    frame = np.full((1, height, width, 3), 90, dtype=np.uint8)
    pixels = processor(frames=[frame], clip_indices=[[[0]]])["pixel_values"][0, 0, 0]
    expected = torch.zeros(3, 32, 32, dtype=torch.uint8)
    expected[:, : filled[0], : filled[1]] = 90
    assert torch.equal(pixels, expected)


def test_pil_images_of_any_mode(processor):
    images = [Image.new("L", (20, 10), 70), Image.new("RGB", (20, 10), (1, 2, 3))]
    pixels = processor(frames=[images], clip_indices=[[[0, 1]]])["pixel_values"]
    assert pixels[0, 0, :, :, 0, 0].tolist() == [[70, 70, 70], [1, 2, 3]]


@pytest.mark.parametrize(("height", "width"), [(40, 71), (64, 32), (20, 25), (32, 32)])
@pytest.mark.parametrize(
    ("resize", "reference"),
    [
        ("crop", CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})),
        ("stretch", SiglipImageProcessorPil(size={"height": 32, "width": 32})),
    ],
)
def test_frames_of_clip_and_siglip_are_those_of_transformers(tokenizer, resize, reference, height, width):
    processor = ClipBertProcessor(tokenizer, image_size=32, resize=resize)
    frame = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = reference(Image.fromarray(frame), do_rescale=False, do_normalize=False, return_tensors="pt")
    shown = torch.from_numpy(processor.square(frame)).permute(2, 0, 1)
    assert torch.equal(shown.float(), expected["pixel_values"][0].float())


def test_the_way_of_resizing_is_stored(tokenizer, tmp_path):
    ClipBertProcessor(tokenizer, resize="crop").save_pretrained(tmp_path)
    assert ClipBertProcessor.from_pretrained(tmp_path).resize == "crop"
    assert ClipBertProcessor.from_pretrained(tmp_path, resize="pad").resize == "pad"
    with pytest.raises(ValueError, match=r"resize is 'zoom': expected one of \['pad', 'crop', 'stretch'\]"):
        ClipBertProcessor(tokenizer, resize="zoom")


def test_texts_are_padded_to_a_multiple_of_eight(processor):
    batch = processor(texts=["a red circle", "the blue square stays left a red circle"])
    assert batch["input_ids"].shape == (2, 16)
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 10]
    assert torch.equal(batch["input_ids"] != 0, batch["attention_mask"].bool())
    assert processor(texts=["red"])["input_ids"].shape == (1, 8)


def test_a_long_text_is_cut_with_one_warning(processor, caplog):
    with caplog.at_level(logging.WARNING):
        batch = processor(texts=["red circle " * 20_000])
        processor(texts=["blue square " * 50])
    assert batch["input_ids"].shape == (1, 16)
    assert batch["attention_mask"].sum() == 10
    assert batch["input_ids"][0, 9] == processor.tokenizer.sep_token_id
    assert [record.getMessage() for record in caplog.records] == [
        "texts[0] has 40002 tokens: texts longer than max_text_length, 10 tokens, are cut. This warning is shown once."
    ]


def test_what_it_makes_is_what_the_model_takes(tokenizer):
    config = ClipBertConfig.tiny(vocab_size=len(tokenizer), image_size=64, num_hidden_layers=1)
    processor = ClipBertProcessor.for_config(config, tokenizer)
    batch = processor(frames=[video(3, 40, 64), video(9, 64, 64)], texts=["a red circle", "the blue square"])
    assert ClipBertForRetrieval(config).eval()(**batch).logits.shape == (2, 2)


def test_round_trip(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = ClipBertProcessor.from_pretrained(tmp_path)
    assert (again.image_size, again.clips, again.frames_per_clip, again.max_text_length) == (32, 2, 2, 10)
    assert ClipBertProcessor.from_pretrained(tmp_path, clips=5).clips == 5
    call = {"frames": [video()], "texts": ["a red circle, moving"]}
    for name, value in processor(**call).items():
        assert torch.equal(value, again(**call)[name])


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer.json"])
def test_a_half_made_folder(processor, tmp_path, file):
    processor.save_pretrained(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ClipBertError, match=rf"{file}: not found: .* is not a complete ClipBERT model folder"):
        ClipBertProcessor.from_pretrained(tmp_path)


def test_a_processor_file_of_something_else(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Other"}))
    (tmp_path / "checksums.sha256").unlink()
    with pytest.raises(ClipBertError, match=r"processor_config\.json: not a ClipBERT processor file"):
        ClipBertProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "frames and texts: at least one of them must be given"),
        ({"frames": []}, "frames is empty"),
        ({"frames": video()}, r"frames has shape \(6, 32, 32, 3\): pass one video as a list"),
        ({"frames": [video()[0]]}, r"frames\[0\] has shape \(32, 32, 3\) and type uint8: expected \(frames, height"),
        ({"frames": [video().astype(float)]}, r"frames\[0\] has shape .* and type float64: expected"),
        ({"frames": [video().transpose(0, 3, 1, 2)]}, r"frames\[0\] has shape \(6, 3, 32, 32\)"),
        ({"frames": [["a.mp4"]]}, r"frames\[0\] is \['a.mp4'\]: expected a .* array or a list of PIL images"),
        ({"frames": [video()], "clip_indices": [[[0, 6]]]}, r"clip_indices\[0\] holds 6: expected 0 to 5"),
        ({"frames": [video()], "clip_indices": [[0, 1]]}, r"clip_indices\[0\] has shape \(2,\)"),
        ({"frames": [video()], "clip_indices": []}, "clip_indices is given for 0 videos: expected 1"),
        (
            {"frames": [video(), video()], "clip_indices": [[[0, 1]], [[0], [1]]]},
            r"clip_indices has shapes \[\(1, 2\), \(2, 1\)\]: expected the same",
        ),
        ({"texts": ["a"], "clip_indices": [[[0]]]}, "clip_indices are given without frames"),
        ({"texts": "a red circle"}, "texts is 'a red circle': expected a list of strings"),
        ({"texts": []}, r"texts is \[\]: expected a list of strings"),
        ({"texts": ["a", 3]}, "expected a list of strings"),
        ({"texts": ["a", " "]}, r"texts\[1\] is ' ': expected a text that is not empty"),
    ],
)
def test_each_bad_argument_is_named(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


def test_a_bad_setting_is_named(tokenizer):
    with pytest.raises(ValueError, match="image_size is 0: expected an integer above 0"):
        ClipBertProcessor(tokenizer, image_size=0)


def test_the_settings_of_evaluation_are_stored(tmp_path):
    tokenizer = ClipBertProcessor.train_tokenizer(["a red circle"] * 2)
    frames = FramesParams(fps=1.0, size=224, max_frames=5, sampling="scene")
    search = {"beams": 2, "max_length": 9, "length_penalty": 0.5, "no_repeat_ngram": 2}
    ClipBertProcessor(tokenizer, 96, clips=7, frames=frames, generation=search).save_pretrained(tmp_path)
    again = ClipBertProcessor.from_pretrained(tmp_path)
    assert (again.clips, again.candidates, again.generation) == (7, frames, search)

    ClipBertProcessor(tokenizer, 448).save_pretrained(tmp_path)  # as a converted checkpoint
    again = ClipBertProcessor.from_pretrained(tmp_path)
    assert (again.frames, again.generation) == (None, None)
    assert again.candidates == FramesParams(size=448)  # frames are not enlarged to what the model sees


FRAMES = {"fps": 1.0, "size": 224, "max_frames": 5, "sampling": "scene"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resize": "zoom"}, "resize is 'zoom': expected one of pad, crop, stretch"),
        ({"resize": ["pad"]}, r"resize is \['pad'\]: expected one of pad, crop, stretch"),
        ({"image_size": "224"}, "image_size is '224': expected an integer above 0"),
        ({"clips": 0}, "clips is 0: expected an integer above 0"),
        ({"frames_per_clip": True}, "frames_per_clip is True: expected an integer above 0"),
        ({"max_text_length": None}, "max_text_length is missing: expected an integer above 0"),
        ({"frames": 2.0}, "frames is 2.0: expected an object with named values"),
        ({"frames": FRAMES | {"fps": -1}}, "frames.fps is -1: expected a number; above 0"),
        ({"frames": FRAMES | {"sampling": "all"}}, "frames.sampling is 'all': expected .*one of uniform, scene, adapt"),
        ({"frames": {"fps": 1.0}}, "frames.size is missing: expected an integer; at least 8, at most 4096"),
        ({"generation": []}, r"generation is \[\]: expected an object with named values"),
        ({"generation": {"beams": 0}}, "generation.beams is 0: expected an integer; at least 1, at most 64"),
        ({"generation": {"beam": 3}}, "generation.beam is 3: expected only beams, max_length, length_penalty, no_rep"),
        ({"dual_encoder": 77}, "dual_encoder is 77: expected an object with named values"),
        ({"dual_encoder": {}}, "dual_encoder.max_text_length is missing: expected an integer above 0"),
    ],
)
def test_a_wrong_value_in_the_processor_file_is_named(processor, tmp_path, wrong, message):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    sign_files(tmp_path, [path])
    with pytest.raises(ModelFolderError, match=rf"processor_config\.json: {message}"):
        ClipBertProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "null"])
def test_a_processor_file_that_is_no_object(processor, tmp_path, text):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(text)
    sign_files(tmp_path, [path])
    with pytest.raises(ModelFolderError, match=r"processor_config\.json: (not a ClipBERT processor file|the file is)"):
        ClipBertProcessor.from_pretrained(tmp_path)
