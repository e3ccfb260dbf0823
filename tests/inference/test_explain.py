"""An explanation belongs to the model's own answer: its clip scores, the frames that it saw, and the words it read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_releases import save_model

from clipbert import pipeline
from clipbert.errors import ClipBertError
from clipbert.inference.base import Pipeline
from clipbert.inference.explain import explain
from clipbert.inference.explain_picture import draw
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.video_input import decode_input

pytestmark = pytest.mark.slow  # decodes files in another process

QUESTION = "what color is it?"


@pytest.fixture
def video(tiny_video: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_video(tmp_path / "v.mp4", frames=32, fps=8, size=(64, 48))


def model_of(task: str, tmp_path: Path) -> Pipeline:
    made: Pipeline = pipeline(task, save_model(tmp_path / task, task, 0))
    with torch.no_grad():  # random weights of the usual size give all texts the same score
        for parameter in made.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return made


@torch.inference_mode()
def clip_logits(pipe: Pipeline, video: Path, *texts: str) -> torch.Tensor:
    """The model's own logits (N, K, labels) of each clip."""
    ids, mask = pipe.tokenize(list(texts))
    embeds = pipe.encode([video])
    out = pipe.model(
        visual_embeds=embeds, input_ids=ids, attention_mask=mask, texts_per_video=torch.tensor([len(texts)])
    )
    found: torch.Tensor = out.itm_logits if pipe.task == "pretrain" else out.clip_logits
    return found


def test_an_answer_is_explained_by_its_own_model(tmp_path: Path, video: Path) -> None:
    ask = model_of("open_qa", tmp_path)
    best = ask(video, QUESTION)[0]["answer"]
    found = explain(ask, video, QUESTION, best)
    expected = clip_logits(ask, video, QUESTION)[0].softmax(dim=1)[:, ask.model.config.answers.index(best)]
    assert found.clip_scores == pytest.approx(expected.numpy(), abs=1e-5)
    frames = decode_input(video, ask.frames)
    indices = uniform_clips(len(frames.times), ask.processor.clips, ask.processor.frames_per_clip)
    assert np.array_equal(found.times, frames.times[indices])
    assert np.array_equal(found.frames[1][0], frames.images[indices[1, 0]])
    assert found.shown == (0.75, 1.0)
    assert found.cells.max() == pytest.approx(1)
    assert found.cells.min() >= 0
    assert [word for word, _ in found.words] == ["what", "color", "is", "it", "?"]
    assert max(value for _, value in found.words) == 1


@pytest.mark.parametrize(("task", "label"), [("retrieval", 1), ("pretrain", 1), ("image_qa", 0)])
def test_scores_of_clips_are_the_models(task: str, label: int, tmp_path: Path, video: Path) -> None:
    pipe = model_of(task, tmp_path)
    text, answer = "a red square moves left", "red" if task == "image_qa" else "a red square moves left"
    logits = clip_logits(pipe, video, text)[0]
    expected = logits.sigmoid() if task == "image_qa" else logits.softmax(dim=1)
    assert explain(pipe, video, text, answer).clip_scores == pytest.approx(expected[:, label].numpy(), abs=1e-5)


def test_an_option_is_compared_with_the_others_in_each_clip(tmp_path: Path, video: Path) -> None:
    choose = model_of("multiple_choice", tmp_path)
    options = ["red", "blue circle"]
    found = explain(choose, video, QUESTION, "blue circle", options)
    logits = clip_logits(choose, video, *(f"{QUESTION} {option}" for option in options))[:, :, 0]
    assert found.clip_scores == pytest.approx(logits.softmax(dim=0)[1].numpy(), abs=1e-5)
    assert [word for word, _ in found.words][-2:] == ["blue", "circle"]


def test_the_words_of_a_caption_have_their_probabilities(tmp_path: Path, video: Path) -> None:
    describe = model_of("captioning", tmp_path)
    caption = "a red square moves left"
    found = explain(describe, video, "", caption)
    ids, mask = describe.tokenize([caption])
    length = int(mask.sum())
    with torch.inference_mode():
        out = describe.model(visual_embeds=describe.encode([video]), input_ids=ids[:, :length])
    steps = out.logits[0, : length - 1].gather(1, ids[0, 1:length, None])[:, 0].exp()
    assert [word for word, _ in found.words] == caption.split()
    assert [value for _, value in found.words] == pytest.approx(steps[:-1].tolist(), abs=1e-4)
    assert found.cells.shape[0] == describe.processor.clips
    assert ((found.clip_scores > 0) & (found.clip_scores < 1)).all()


def test_a_segment_shows_its_own_times(tmp_path: Path, video: Path) -> None:
    ask = model_of("open_qa", tmp_path)
    found = explain(ask, {"video": video, "start_s": 2}, QUESTION, "red")
    assert found.times.min() >= 2
    with pytest.raises(ClipBertError, match="explanations need a file, whose frames have times"):
        explain(ask, np.zeros((2, 48, 64, 3), np.uint8), QUESTION, "red")


def test_the_picture_shows_every_frame(tmp_path: Path, video: Path) -> None:
    ask = model_of("open_qa", tmp_path)
    ask.processor.clips, ask.processor.frames_per_clip = 3, 2
    found = explain(ask, video, QUESTION, "red")
    draw(found, f"{QUESTION} " * 20, "red", "37 %", tmp_path / "large.png")
    draw(explain(ask, {"video": video, "end_s": 1}, QUESTION, "red"), "", "red", "", tmp_path / "small.png", True)
    with Image.open(tmp_path / "large.png") as large, Image.open(tmp_path / "small.png") as small:
        assert large.width == small.width > 900
        assert large.height > small.height
        assert large.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
