"""What a served model answers, and for which columns."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipbert.errors import ClipBertError
from clipbert.frames.decode import read_frames
from clipbert.frames.sampling import uniform_clips
from clipbert.model import ClipBertProcessor, Decoding, load
from clipbert.release.served_model import ServedClipBert

SETTINGS = {"fps": 2.0, "size": 32, "max_frames": 8, "timeout_s": 60.0, "clips": 2, "batch_size": 2}


@pytest.fixture
def video(tmp_path: Path, tiny_video: Callable[..., Path]) -> Path:
    return tiny_video(tmp_path / "a.mp4")


@pytest.fixture
def served(make_model: Callable[..., Path]) -> Callable[[str], ServedClipBert]:
    def make(task: str) -> ServedClipBert:
        model = ServedClipBert()
        model.load_context(SimpleNamespace(artifacts={"model": str(make_model(task))}, model_config=SETTINGS))
        return model

    return make


def test_multiple_choice_takes_questions_with_different_numbers_of_options(served, make_model, video) -> None:
    asked = pd.DataFrame(
        {
            "video": [str(video)] * 3,
            "question": ["what color is it?", "how many shapes appear?", "what color is it?"],
            "options": [["red", "blue"], ["a", "red", "square"], np.array(["right", "left", "blue", "a"], object)],
        },
        index=[5, 1, 5],
    )
    answers = served("multiple_choice").predict(None, asked)
    assert list(answers.index) == [5, 1, 5]
    assert list(answers.columns) == ["answer", "option", "confidence"]
    model = load(make_model("multiple_choice"))
    processor = ClipBertProcessor.from_pretrained(make_model("multiple_choice"))
    images = read_frames(video, 2.0, 32, 8, 60).images
    clips = uniform_clips(len(images), 2, model.config.frames_per_clip)
    for row, question, options in zip(answers.itertuples(), asked["question"], asked["options"], strict=True):
        texts = [f"{question} {option}" for option in options]
        batch = processor(frames=[images], texts=texts, clip_indices=[clips])
        with torch.inference_mode():
            expected = model(**batch, texts_per_video=torch.tensor([len(texts)])).logits.softmax(dim=1)[0]
        assert row.option == int(expected.argmax())
        assert row.answer == options[row.option]
        assert row.confidence == pytest.approx(float(expected.max()), abs=1e-5)


def test_a_question_without_options_is_named(served, video) -> None:
    asked = pd.DataFrame({"video": [str(video)], "question": ["what color is it?"], "options": [[]]})
    with pytest.raises(ClipBertError, match=r"options of the question 'what color is it\?' are empty"):
        served("multiple_choice").predict(None, asked)


def test_a_file_damaged_in_part_is_said_to_be_and_a_url_is_refused(served, tmp_path, tiny_video, caplog) -> None:
    content = tiny_video(tmp_path / "whole.mkv", frames=64, options={"g": "8"}).read_bytes()
    middle = len(content) // 2
    (tmp_path / "cut.mkv").write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    model = served("retrieval")
    answers = model.predict(None, pd.DataFrame({"video": [str(tmp_path / "cut.mkv")], "text": ["a red square"]}))
    assert len(answers) == 1
    assert any("cut.mkv: damaged: " in message for message in caplog.messages)
    with pytest.raises(ClipBertError, match=r"https://a/b\.mp4: is a URL: expected a local file"):
        model.predict(None, pd.DataFrame({"video": ["https://a/b.mp4"], "text": ["a red square"]}))


def test_image_qa_takes_an_image(served, make_model, tmp_path: Path) -> None:
    Image.new("RGB", (48, 32), (200, 30, 20)).save(tmp_path / "a.png")
    questions = ["what color is it?", "how many shapes appear?", "what color is it?"]
    asked = pd.DataFrame({"image": [str(tmp_path / "a.png")] * 3, "question": questions})
    answers = served("image_qa").predict(None, asked)
    model = load(make_model("image_qa"))
    processor = ClipBertProcessor.from_pretrained(make_model("image_qa"))
    images = read_frames(tmp_path / "a.png", 2.0, 32, 8, 60).images
    batch = processor(frames=[images], texts=questions, clip_indices=[[[0], [0]]])
    with torch.inference_mode():
        expected = model(**batch, texts_per_video=torch.tensor([3])).logits.sigmoid()
    assert answers["answer"].tolist() == [model.config.answers[i] for i in expected.argmax(dim=1)]
    np.testing.assert_allclose(answers["confidence"], expected.max(dim=1).values, atol=1e-5)


def test_captioning_describes_a_video_as_the_task_would(served, make_model, video) -> None:
    model, processor = load(make_model("captioning")), ClipBertProcessor.from_pretrained(make_model("captioning"))
    server = served("captioning")
    server.settings |= {"beams": 2, "max_length": 6, "length_penalty": 0.5, "no_repeat_ngram": 2}
    answers = server.predict(None, pd.DataFrame({"video": [str(video)]}))
    images = read_frames(video, 2.0, 32, 8, 60).images
    clips = uniform_clips(len(images), 2, model.config.frames_per_clip)
    pixel_values = processor(frames=[images], clip_indices=[clips])["pixel_values"]
    words = processor.tokenizer
    ids, scores = model.generate(
        pixel_values, start=words.cls_token_id, end=words.sep_token_id, decoding=Decoding(2, 6, 0.5, 2)
    )
    assert answers["caption"].tolist() == words.batch_decode(ids, skip_special_tokens=True)
    assert answers["score"].tolist() == pytest.approx(scores.tolist(), abs=1e-4)


def test_a_pretrained_model_says_whether_text_and_image_match(served, make_model, tmp_path: Path) -> None:
    Image.new("RGB", (48, 32), (200, 30, 20)).save(tmp_path / "a.png")
    texts = ["a red square", "how many shapes"]
    asked = pd.DataFrame({"image": [str(tmp_path / "a.png")] * 2, "text": texts})
    answers = served("pretrain").predict(None, asked)
    model, processor = load(make_model("pretrain")), ClipBertProcessor.from_pretrained(make_model("pretrain"))
    images = read_frames(tmp_path / "a.png", 2.0, 32, 8, 60).images
    batch = processor(frames=[images], texts=texts, clip_indices=[[[0], [0]]])
    with torch.inference_mode():
        expected = model(**batch, texts_per_video=torch.tensor([2])).itm_logits.logsumexp(dim=1).softmax(dim=1)[:, 1]
    np.testing.assert_allclose(answers["score"], expected, atol=1e-5)
