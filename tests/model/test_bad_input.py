"""What a new user hands over by mistake: refused by name, or read as it was meant; never taken for something else."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.model import (
    ClipBertConfig,
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForRetrieval,
    ClipBertProcessor,
    inputs,
    load,
)

VIDEO = np.random.default_rng(0).integers(0, 256, (6, 24, 32, 3), dtype=np.uint8)
PIXELS = torch.full((1, 1, 1, 3, 64, 64), 90.0)
IDS = torch.ones(1, 8, dtype=torch.long)


@pytest.fixture(scope="module")
def processor():
    tokenizer = ClipBertProcessor.train_tokenizer(["a red circle moves"] * 2)
    return ClipBertProcessor(tokenizer, image_size=32, clips=2, frames_per_clip=1, max_text_length=8)


@pytest.fixture(scope="module", params=[ClipBertForRetrieval, ClipBertForMultipleChoice, ClipBertForCaptioning])
def model(request):
    return request.param(ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1)).eval()


def truncated():
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)).save(content, "png")
    return Image.open(io.BytesIO(content.getvalue()[:2000]))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            [VIDEO / 255],
            "type float64: expected (frames, height, width, 3) of type uint8, RGB. The values look like 0 to 1",
        ),
        ([VIDEO.astype(np.float32)], "frames[0] has shape (6, 24, 32, 3) and type float32: expected (frames, height"),
        ([VIDEO, VIDEO > 9], "frames[1] has shape (6, 24, 32, 3) and type bool: expected (frames, height, width, 3)"),
        ([VIDEO.transpose(0, 3, 1, 2)], "The channels look first: pass video.transpose(0, 2, 3, 1)."),
        ([VIDEO[..., 0]], "frames[0] has shape (6, 24, 32) and type uint8: expected (frames, height, width, 3)"),
        ([VIDEO[..., [0, 1, 2, 0]]], "frames[0] has shape (6, 24, 32, 4) and type uint8: expected"),
        ([VIDEO[:0]], "frames[0] has shape (0, 24, 32, 3) and type uint8: expected"),
        (
            [torch.from_numpy(VIDEO)],
            "frames[0] is a torch.Tensor of shape (6, 24, 32, 3) and type torch.uint8: expected",
        ),
        (torch.from_numpy(VIDEO), "frames has shape (6, 24, 32, 3): pass one video as a list, frames=[video]."),
        (
            [list(VIDEO)],
            "frames[0] is a list that starts with a numpy.ndarray of shape (24, 32, 3) and type uint8: exp",
        ),
        (
            [[]],
            "frames[0] is []: expected a path, the bytes of a file, a (frames, height, width, 3) uint8 array or a li",
        ),
        ([None], "frames[0] is None: expected a path"),
        ([io.BytesIO(b"abc")], "expected a path, the bytes of a file"),
        (3, "frames is 3: expected a list of videos."),
        ({"a": VIDEO}, "expected a list of videos."),
        ((video for video in [VIDEO]), "expected a list of videos."),
        ([truncated()], "frames[0] holds an image that cannot be read: image file is truncated"),
        ([[Image.new("L", (9, 9)), Image.new("F", (9, 9), 0.5)]], "frames[0][1] is an image of PIL's mode 'F', which"),
        ([Image.new("I", (9, 9), 40_000)], "frames[0][0] is an image of PIL's mode 'I', which has no fixed range"),
    ],
)
def test_what_is_no_video_is_named(processor, frames, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        processor(frames=frames)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"texts": 3}, "texts is 3: expected a list of strings"),
        ({"texts": (text for text in ["a"])}, "expected a list of strings"),
        ({"texts": {"a": 1}}, "texts is {'a': 1}: expected a list of strings"),
        ({"texts": ["a", "b \ud800"]}, "texts[1] is 'b \\ud800': holds half of a surrogate pair"),
        (
            {"frames": [VIDEO], "clip_indices": [[[0], [0, 1]]]},
            "clip_indices[0] is [[0], [0, 1]]: expected integers (c",
        ),
        ({"frames": ["a.mp4"], "candidates": {"fps": 1}}, "candidates is {'fps': 1}: expected a FramesParams"),
    ],
)
def test_each_other_bad_argument_is_named(processor, call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        processor(**call)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.mp4", "gone.mp4': not found: expected a video"), ("", "is a folder: expected a video or image file")],
)
def test_a_path_that_is_no_file(processor, tmp_path, name, message):
    with pytest.raises(ClipBertError, match=re.escape(message)):
        processor(frames=[tmp_path / name])


def test_no_bytes(processor):
    with pytest.raises(ClipBertError, match="<0 bytes>: is empty"):
        processor(frames=[b""])


def test_arrays_are_read_whatever_their_memory_looks_like(processor):
    turned = VIDEO.transpose(0, 2, 1, 3)[::2, ::-1]
    frozen = np.frombuffer(VIDEO.tobytes(), np.uint8).reshape(VIDEO.shape)
    pixels = processor(frames=[turned, frozen])["pixel_values"]
    assert torch.equal(pixels[0], processor(frames=[np.ascontiguousarray(turned)])["pixel_values"][0])
    assert torch.equal(pixels[1], processor(frames=[VIDEO])["pixel_values"][0])


def sideways():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(VIDEO[0]).save(content, "png", exif=exif)
    return Image.open(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(np.dstack([VIDEO[0], VIDEO[1][..., 0]])),
        Image.fromarray(VIDEO[0][..., :2], "LA"),
        Image.fromarray(VIDEO[0]).convert("P"),
        Image.fromarray(VIDEO[0][..., 0].astype(np.uint16) * 256 + 3),
        Image.fromarray(VIDEO[0][..., 0]),
        sideways(),
    ],
    ids=["transparent", "transparent gray", "palette", "16 bits", "gray", "exif"],
)
def test_a_picture_looks_as_its_file_does(processor, picture):
    content = io.BytesIO()
    picture.save(content, "png", exif=picture.getexif())
    given, read = processor(frames=[picture, content.getvalue()], candidates=FramesParams(size=24))["pixel_values"]
    assert torch.equal(given, read)
    assert given.float().std() > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": PIXELS * float("nan")}, "pixel_values holds nan: expected 0 to 255."),
        (
            {"pixel_values": PIXELS.bool()},
            "pixel_values has type torch.bool: expected uint8 or floating point, 0 to 255.",
        ),
        ({"pixel_values": PIXELS.numpy()}, "pixel_values is of type ndarray: expected a torch tensor."),
        (
            {"pixel_values": PIXELS.to("meta")},
            "pixel_values is on meta: expected cpu, like the model and its other inputs.",
        ),
        ({"input_ids": IDS.numpy()}, "input_ids is of type ndarray: expected a torch tensor."),
        ({"input_ids": IDS.to("meta")}, "input_ids is on meta: expected cpu, like the model and its other inputs."),
        ({"input_ids": IDS.bool()}, "input_ids has type torch.bool and holds 1 to 1: expected integers from 0 to 39"),
        ({"attention_mask": [[1] * 8]}, "attention_mask is of type list: expected a torch tensor."),
        ({"attention_mask": IDS * -9000.0}, "attention_mask holds -9000: expected 1 for a token and 0 for padding."),
        ({"texts_per_video": [1]}, "texts_per_video is of type list: expected a torch tensor."),
        ({"texts_per_video": torch.tensor([True])}, "texts_per_video is [True]: expected integers of 0 or more."),
        ({"labels": [0]}, "labels is of type list: expected a torch tensor."),
        (
            {"pixel_values": torch.zeros(1, 1, 1, 3, 32, 4096)},
            "a grid of 1 x 128 cells, but config.max_grid_cols is 100",
        ),
    ],
)
def test_each_model_refuses_what_it_would_take_for_something_else(model, changes, message):
    model(pixel_values=PIXELS, input_ids=IDS)
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**({"pixel_values": PIXELS, "input_ids": IDS} | changes))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (PIXELS / 255, "pixel_values holds 0.352941 to 0.352941: expected 0 to 255; multiply 0 to 1 by 255."),
        (PIXELS - 100, "pixel_values holds -10 to -10: expected 0 to 255; the model normalizes them."),
        (PIXELS + 200, "pixel_values holds 290 to 290: expected 0 to 255; the model normalizes them."),
    ],
)
def test_pixels_on_another_scale_are_warned_once(model, monkeypatch, caplog, pixels, message):
    monkeypatch.setattr(inputs, "_warned", set())
    for _ in range(2):
        model(pixel_values=pixels, input_ids=IDS)
    assert caplog.messages == [f"{message} This warning is shown once."]


def test_black_and_half_precision_frames_are_frames(model, monkeypatch, caplog):
    monkeypatch.setattr(inputs, "_warned", set())
    for pixels in (PIXELS * 0, PIXELS.half(), PIXELS.byte(), PIXELS[..., ::2, :]):
        assert torch.isfinite(model(pixel_values=pixels, input_ids=IDS).logits).all()
    assert caplog.messages == []


@pytest.fixture
def saved(processor, tmp_path):
    ClipBertForRetrieval(ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
def test_a_half_made_folder_is_a_value_error_too(saved, file):
    (saved / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}: not found"):
        (load if file in ("config.json", "model.safetensors") else ClipBertProcessor.from_pretrained)(saved)


@pytest.mark.parametrize("read", [load, ClipBertForRetrieval.from_pretrained])
def test_weights_that_were_tampered_with_are_noticed_by_either_door(saved, read):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged or edited"):
        read(saved)
