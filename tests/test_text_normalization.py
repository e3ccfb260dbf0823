"""Every script: tokens, and a captioner that repeats the reference scores the maximum and writes what people write."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizer, PreTrainedTokenizerFast

from clipbert.data.annotations import stream_texts
from clipbert.evaluation.metrics.captions import best_constant, bleu4, bleu4_counts, cider, rouge_l, words
from clipbert.model.tokenizer import load_tokenizer, train_tokenizer, unwritable
from clipbert.text_normalization import normalize_text, split_words

LANGUAGES = {
    "english": ("A man isn't slicing 2.5 onions.", "The dogs' well-known ball rolls", 'Two red circles "fall" down'),
    "german": ("Ein Löwe läuft über die Straße.", "Ein Mädchen fährt sehr schnell.", "Die Bären spielen „Fußball“."),
    "french": ("L'élève dessine un cœur.", "Où est la forêt enchantée ?", "Un garçon mange des pâtes"),
    "spanish": ("¿Dónde está el niño pequeño?", "¡Mira la cigüeña blanca!", "El pingüino camina despacio"),
    "vietnamese": ("Một người đàn ông cắt hành", "Chú chó chạy trên bãi cỏ", "Hai cô gái đang nhảy múa"),
    "turkish": ("İki kız IŞIKLI sokakta yürüyor", "Çocuk ağaca tırmanıyor şimdi", "İstanbul'da vapur geçiyor bugün"),
    "russian": ("Мужчина режет лук на кухне", "Собака бежит по зелёной траве", "Две девушки танцуют вместе"),
    "greek": ("Ο ΣΚΥΛΟΣ τρέχει γρήγορα έξω", "Ένας άντρας κόβει κρεμμύδια", "Δύο κορίτσια χορεύουν μαζί;"),
    "arabic": ("رجل يقطع البصل في المطبخ", "كلبٌ يركض على العشب، بسرعة", "فتاتان ترقصان معًا هنا؟"),
    "persian": ("مردی پیاز را خرد می‌کند", "سگ روی چمن‌ها می‌دود اینجا", "دو دختر با هم می‌رقصند"),
    "hebrew": ("גבר חותך בצל במטבח", "כלב רץ על הדשא הירוק", "שתי בנות רוקדות יחד"),
    "hindi": ("एक आदमी प्याज काट रहा है।", "कुत्ता घास पर दौड़ता है", "दो लड़कियाँ नाच रही हैं"),
    "tamil": ("ஒரு மனிதன் வெங்காயம் நறுக்குகிறான் இங்கே", "நாய் புல்வெளியில் வேகமாக ஓடுகிறது", "இரண்டு பெண்கள் நடனம் ஆடுகிறார்கள்"),
    "korean": ("한 남자가 양파를 썰고 있다", "개가 잔디밭 위를 달린다", "두 소녀가 함께 춤을 춘다"),
    "chinese": ("一个男人，在切洋葱。", "一只狗在草地上奔跑", "两个女孩在跳舞"),
    "japanese": ("男の人が「タマネギ」を切る。", "犬が芝生の上を走っている", "二人の女の子が踊っています"),
    "thai": ("ผู้ชายกำลังหั่นหัวหอม ในครัว", "สุนัขวิ่งบนสนามหญ้า", "เด็กผู้หญิงสองคนเต้นรำ"),
    "khmer": ("បុរសម្នាក់កំពុងកាត់ខ្ទឹមបារាំង។", "ឆ្កែរត់លើស្មៅ", "ក្មេងស្រីពីរនាក់រាំ"),
    "lao": ("ຜູ້ຊາຍກຳລັງຕັດຫົວຜັກບົ່ວ", "ໝາແລ່ນຢູ່ເທິງຫຍ້າ", "ເດັກຍິງສອງຄົນເຕັ້ນລຳ"),
    "burmese": ("လူတစ်ယောက် ကြက်သွန်လှီးနေသည်။", "ခွေးက မြက်ခင်းပေါ်မှာပြေးနေတယ်", "ကောင်မလေးနှစ်ယောက်ကနေတယ်"),
    "emoji": ("👨‍👩‍👧 go to the 🏖️ now", "🐕 🐈 🐕 🐈 🐟", "a 👍🏽 from the 🇩🇪 team"),
    "decomposed": tuple(
        unicodedata.normalize("NFD", text)
        for text in ("Ein Löwe läuft über Gräser", "Một người đàn ông cắt hành", "한 남자가 양파를 썰고 있다")
    ),
}


def learned(texts: tuple[str, ...]) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts, vocab_size=8192, min_frequency=1)


def said(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...]) -> list[str]:
    return list(tokenizer.batch_decode(tokenizer(list(texts))["input_ids"], skip_special_tokens=True))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_captioner_that_repeats_the_reference_scores_the_maximum(language: str, tmp_path: Path) -> None:
    texts = LANGUAGES[language]
    learned(texts).save_pretrained(tmp_path)
    captions, references = said(load_tokenizer(tmp_path), texts), [[text] for text in texts]
    # CIDEr is the mean over n-grams of 1 to 4 words, 10 each: every text here has four words or more.
    assert cider(captions, references) == pytest.approx([10, 10, 10])
    assert bleu4(bleu4_counts(captions, references).sum(axis=0, keepdims=True)) == pytest.approx(1)
    assert rouge_l(captions, references) == pytest.approx(1)
    assert best_constant(captions, references)[1] == pytest.approx(best_constant(list(texts), references)[1])
    assert max(np.mean(cider([text] * 3, references)) for text in texts) == pytest.approx(
        best_constant(list(texts), references)[1]
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_generated_text_is_lower_case_and_composed_and_otherwise_as_written(language: str) -> None:
    texts = LANGUAGES[language]
    expected = [normalize_text(text).replace("forêt enchantée ?", "forêt enchantée?") for text in texts]
    assert said(learned(texts), texts) == expected
    assert all(unicodedata.is_normalized("NFC", text) for text in expected)


def test_letters_keep_their_accents_and_their_case_rules() -> None:
    assert normalize_text("Ein LÖWE läuft über die Stra\u00dfe") == "ein löwe läuft über die straße"
    assert normalize_text("İSTANBUL'da") == "istanbul'da"
    assert normalize_text("Ο ΣΚΥΛΟΣ") == "ο σκυλος"
    assert normalize_text("e\u0301te\u0301 \t\u0000 J\u030c") == "été ǰ"
    assert normalize_text("می\u200cخواهم \u200b\u00ad\ufeff") == "می\u200cخواهم"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("一个男人在切2个NBA洋葱。", "一 个 男 人 在 切 2 个 nba 洋 葱"),
        ("サッカーをする", "サ ッ カ ー を す る"),
        ("ผู้ชาย", "ผ ู ้ ช า ย"),
        ("कुत्ता घास पर।", "कुत्ता घास पर"),
        ("می‌کند، کتاب؟", "می‌کند کتاب"),
        ("Don't, a_b dogs' 2.5", "don t a b dogs 2 5"),
        ("👍🏽 🏖️ 👨‍👩‍👧", "👍 🏽 🏖 👨 👩 👧"),
        ("한 남자가", "한 남자가"),
    ],
)
def test_tokens_of_the_metrics(text: str, tokens: str) -> None:
    assert split_words(text) == tokens.split(" ")
    assert words(unicodedata.normalize("NFD", text)) == tokens


def test_an_unseen_character_does_not_hide_the_sentence_around_it() -> None:
    tokenizer = learned(("一个男人在切洋葱", "一只狗"))
    assert tokenizer.decode(tokenizer("一个女人在切洋葱")["input_ids"][1:-1]).replace(" ", "") == "一个[UNK]人在切洋葱"
    long = "一个男人在切洋葱" * 60
    assert tokenizer.unk_token_id not in tokenizer(long)["input_ids"]


def test_no_piece_is_a_whole_phrase() -> None:
    tokenizer = train_tokenizer(["一个男人在切洋葱"] * 5 + ["incomprehensibilities"] * 5, vocab_size=500)
    pieces = {piece.removeprefix("##") for piece in tokenizer.get_vocab()} - set(tokenizer.all_special_tokens)
    assert 1 < max(len(piece) for piece in pieces if not piece.isascii()) <= 4
    assert "incomprehensibilities" in pieces
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_lower_case_ascii_texts_have_the_vocabulary_that_they_had_before() -> None:
    texts = ["A red circle moves left, then stops.", "Two blue squares move; one stays."] * 3
    old = BertWordPieceTokenizer(lowercase=True)
    new = train_tokenizer(texts, vocab_size=300)
    old_ids = BertTokenizer(vocab=new.get_vocab(), do_lower_case=True)(texts)["input_ids"]
    assert new(texts)["input_ids"] == old_ids
    for text in texts:
        assert new.backend_tokenizer.normalizer.normalize_str(text) == old.normalizer.normalize_str(text)


def test_what_a_stripping_tokenizer_cannot_write_is_told() -> None:
    vocabulary = {piece: number for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    for piece in ("ein", "lowe", "schlaft", "do", "not", "一", "人", "。"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True)
    assert unwritable(tokenizer, ["Ein Löwe schläft", "ein lowe"]) == [("Ein Löwe schläft", "ein lowe schlaft")]
    assert unwritable(tokenizer, []) == []


def test_a_bert_tokenizer_writes_without_spaces_that_nobody_writes(tmp_path: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "do", "not", "一", "人", "。", ","]
    BertTokenizer(vocab={piece: number for number, piece in enumerate(vocabulary)}).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert said(tokenizer, ("do not, do", "一人。")) == ["do not, do", "一人。"]


def test_texts_are_stored_in_composed_form(tmp_path: Path) -> None:
    row = {
        "id": "q",
        "media": "videos/a.mp4",
        "question": "Wo ist der Lo\u0308we?",
        "answer": "Ba\u0308r",
        "split": "val",
    }
    (tmp_path / "open_qa.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (text,) = stream_texts(tmp_path, pytest.fail)
    assert (text.text, text.answer) == ("Wo ist der Löwe?", "Bär")
