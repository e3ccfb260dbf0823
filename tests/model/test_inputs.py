import re

import pytest
import torch

from clipbert.model import ClipBertConfig, ClipBertForMultipleChoice, ClipBertForOpenQA, ClipBertForRetrieval


@pytest.fixture(scope="module")
def model():
    return ClipBertForRetrieval(ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1)).eval()


def arguments(**changes):
    good = {
        "pixel_values": torch.zeros(2, 1, 2, 3, 64, 64, dtype=torch.uint8),
        "input_ids": torch.ones(3, 8, dtype=torch.long),
        "attention_mask": torch.ones(3, 8, dtype=torch.long),
        "texts_per_video": torch.tensor([2, 1]),
        "labels": torch.tensor([1, 0, 1]),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


PIXELS = "expected (videos, clips, frames, 3, height, width)."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": torch.zeros(2, 2, 3, 64, 64)}, f"pixel_values has shape (2, 2, 3, 64, 64): {PIXELS}"),
        (
            {"pixel_values": torch.zeros(2, 1, 2, 64, 64, 3)},
            f"pixel_values has shape (2, 1, 2, 64, 64, 3): {PIXELS} The channels look last: permute the frames to "
            "channels first.",
        ),
        ({"pixel_values": torch.zeros(2, 1, 2, 4, 64, 64)}, f"pixel_values has shape (2, 1, 2, 4, 64, 64): {PIXELS}"),
        (
            {"pixel_values": torch.zeros(2, 0, 2, 3, 64, 64)},
            "pixel_values has shape (2, 0, 2, 3, 64, 64), with an empty dimension: "
            "expected (videos, clips, frames, 3, height, width).",
        ),
        (
            {"pixel_values": torch.zeros(2, 1, 2, 3, 64, 64, dtype=torch.int64)},
            "pixel_values has type torch.int64: expected uint8 or floating point, 0 to 255.",
        ),
        ({"pixel_values": None}, "pixel_values and visual_embeds: exactly one of them must be given."),
        (
            {"visual_embeds": torch.zeros(2, 1, 9, 128)},
            "pixel_values and visual_embeds: exactly one of them must be given.",
        ),
        (
            {"pixel_values": None, "visual_embeds": torch.zeros(2, 9, 128)},
            "visual_embeds has shape (2, 9, 128): expected (videos, clips, tokens, 128).",
        ),
        ({"input_ids": None}, "input_ids is missing: expected (texts, length)."),
        ({"input_ids": torch.ones(8, dtype=torch.long)}, "input_ids has shape (8,): expected (texts, length)."),
        (
            {"input_ids": torch.ones(3, 136, dtype=torch.long), "attention_mask": None},
            "input_ids has shape (3, 136): expected a length of at most 128, config.max_position_embeddings.",
        ),
        (
            {"input_ids": torch.full((3, 8), 40)},
            "input_ids has type torch.int64 and holds 40 to 40: expected integers from 0 to 39. "
            "Is this the tokenizer the model was trained with?",
        ),
        (
            {"attention_mask": torch.ones(3, 7, dtype=torch.long)},
            "attention_mask has shape (3, 7): expected that of input_ids, (3, 8).",
        ),
        ({"texts_per_video": None}, "texts_per_video is missing: needed with 3 texts for 2 videos."),
        (
            {"texts_per_video": torch.tensor([2, 2])},
            "texts_per_video sums to 4: expected 3, the number of texts in input_ids.",
        ),
        (
            {"texts_per_video": torch.tensor([3])},
            "texts_per_video has shape (1,): expected (2,), one count per video.",
        ),
        (
            {"texts_per_video": torch.tensor([4, -1])},
            "texts_per_video is [4, -1]: expected integers of 0 or more.",
        ),
        (
            {"labels": torch.tensor([1, 0])},
            "labels has shape (2,) and type torch.int64: expected integers of shape (3,).",
        ),
        ({"labels": torch.tensor([1, 0, 2])}, "labels holds 2: expected 0 to 1."),
    ],
)
def test_each_bad_argument_is_named(model, changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model(**arguments(**changes))


def test_a_video_without_texts_is_fine(model):
    output = model(**arguments(texts_per_video=torch.tensor([0, 3])))
    assert output.logits.shape == (3, 2)


def test_open_qa_label_outside_the_answers():
    model = ClipBertForOpenQA(ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1, answers=["a", "b"]))
    with pytest.raises(ValueError, match=r"labels holds 2: expected 0 to 1 or -100 \(ignored\)\."):
        model(**arguments(labels=torch.tensor([0, -100, 2])))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            torch.tensor([0, 1, 1]),
            "labels has shape (3,) and type torch.int64: expected floating point scores of shape (3, 2), one per "
            "text and answer.",
        ),
        (
            torch.zeros(3, 2, dtype=torch.long),
            "labels has shape (3, 2) and type torch.int64: expected floating point scores of shape (3, 2), one per "
            "text and answer.",
        ),
        (torch.full((3, 2), 1.5), "labels holds 1.5: expected scores from 0 to 1."),
        (torch.full((3, 2), -0.1), "labels holds -0.1: expected scores from 0 to 1."),
        (torch.full((3, 2), torch.nan), "labels holds nan: expected scores from 0 to 1."),
    ],
)
def test_soft_scores_are_checked(labels, message):
    config = ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1, answers=["a", "b"], answer_loss="bce")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ClipBertForOpenQA(config)(**arguments(labels=labels))


def test_multiple_choice_wants_as_many_options_each_or_their_numbers():
    model = ClipBertForMultipleChoice(ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1))
    message = (
        r"texts_per_video is \[2, 1\]: expected the same number of options for each video; where questions have "
        r"different numbers, give options_per_question\."
    )
    with pytest.raises(ValueError, match=message):
        model(**arguments(labels=None))
    assert model(**arguments(labels=None), options_per_question=torch.tensor([2, 1])).logits.shape == (2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"options_per_question": torch.tensor([[2, 1]])},
            "options_per_question has shape (1, 2) and type torch.int64",
        ),
        (
            {"options_per_question": torch.tensor([2.0, 1.0])},
            "options_per_question has shape (2,) and type torch.float",
        ),
        ({"options_per_question": torch.tensor([3, 0])}, "options_per_question is [3, 0]: expected integers of 1 or"),
        ({"options_per_question": torch.tensor([2, 2])}, "options_per_question sums to 4: expected 3, the number of"),
        (
            {"options_per_question": torch.tensor([1, 2])},
            "options_per_question is [1, 2] and texts_per_video [2, 1]: question 1 has options of two videos; expected "
            "all options of a question to be of one video.",
        ),
        ({"labels": torch.tensor([1, 0, 0])}, "labels has shape (3,) and type torch.int64: expected integers of shape"),
        ({"labels": torch.tensor([2, 0])}, "labels holds 2: expected 0 to 1."),
        (
            {"labels": torch.tensor([1, 1])},
            "labels[1] is 1: expected 0 to 0 (the question has 1 options).",
        ),
    ],
)
def test_each_bad_option_is_named(changes, message):
    model = ClipBertForMultipleChoice(ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1))
    good = {"options_per_question": torch.tensor([2, 1]), "labels": torch.tensor([1, 0])}
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**arguments(**(good | changes)))


def test_ranking_needs_a_pair():
    model = ClipBertForRetrieval(ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1, retrieval_loss="ranking"))
    with pytest.raises(ValueError, match="the ranking loss needs a video with both a matched and an unmatched text"):
        model(**arguments(labels=torch.tensor([1, 1, 0])))


def test_contrastive_vectors_need_a_projection():
    model = ClipBertForRetrieval(ClipBertConfig.tiny(vocab_size=40, num_hidden_layers=1, projection_size=None))
    with pytest.raises(ValueError, match="projection_size is None: this model has no contrastive projections"):
        model.get_text_features(torch.ones(1, 8, dtype=torch.long))
