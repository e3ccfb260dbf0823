import json
import subprocess
import sys

import pytest

from clipbert.errors import ClipBertError
from clipbert.model import ClipBertProcessor
from clipbert.model.tokenizer import load_tokenizer, train_tokenizer, unknown_share

TEXTS = [
    "A red circle moves to the left, then a blue square appears.",
    "Two small green triangles leave; the Red circle stays.",
    "which shape moved first? the café's circle",
] * 3


def test_trains_a_lower_casing_bert_tokenizer():
    tokenizer = ClipBertProcessor.train_tokenizer(TEXTS, vocab_size=200)
    ids = tokenizer("A RED circle, zzz")["input_ids"]
    tokens = ["[CLS]", "a", "red", "circle", ",", "[UNK]", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    assert len(tokenizer) <= 200
    assert tokenizer.decode(tokenizer("cafe")["input_ids"], skip_special_tokens=True) == "cafe"


@pytest.mark.slow
def test_same_texts_same_vocabulary_in_any_order_and_process():
    code = (
        "import sys, json; from clipbert.model.tokenizer import train_tokenizer; "
        "print(sorted(train_tokenizer(json.load(sys.stdin), 150).get_vocab().items()))"
    )
    expected = str(sorted(train_tokenizer(TEXTS, 150).get_vocab().items()))
    other = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(TEXTS[::-1]), capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == expected


def test_the_vocabulary_has_no_room_for_the_characters():
    with pytest.raises(ClipBertError, match=r"vocab_size is 20: the texts have \d+ different characters"):
        train_tokenizer(TEXTS, vocab_size=20)


@pytest.mark.parametrize("texts", [[], ["  ", ""]])
def test_nothing_to_learn_from(texts):
    with pytest.raises(ClipBertError, match="the tokenizer has no text to learn from"):
        train_tokenizer(texts)


def test_the_share_of_unknown_tokens():
    tokenizer = train_tokenizer(TEXTS, vocab_size=200)
    assert unknown_share(tokenizer, ["a red circle", "zzz a zzz"]) == (pytest.approx(2 / 6), "zzz a zzz")
    assert unknown_share(tokenizer, []) == (0.0, "")
    assert unknown_share(tokenizer, TEXTS)[0] == 0


def test_no_tokenizer_in_a_folder(tmp_path):
    with pytest.raises(ClipBertError, match="no tokenizer could be read"):
        load_tokenizer(tmp_path)
