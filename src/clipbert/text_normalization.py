"""Unicode normalization and word segmentation of texts: one definition for tokenizers, answers and caption metrics.

Generated text and reference text go through the same functions, so a caption that repeats a reference scores the
maximum in every script.
"""

from typing import Final

import regex
from tokenizers import Regex, normalizers

# Scripts written without spaces between words: those of the line-breaking classes ID (ideographic) and SA (South East
# Asian, "complex context dependent") of Unicode Standard Annex 14, with the two prolonged sound marks of Japanese.
UNSPACED_SCRIPTS: Final = (
    r"\p{Han}\p{Hiragana}\p{Katakana}ーｰ\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}"
)
_WORD: Final = regex.compile(
    rf"(?V1)[[{UNSPACED_SCRIPTS}]&&[\p{{L}}\p{{M}}\p{{N}}]]"  # one character of a script without spaces
    rf"|[\p{{L}}\p{{N}}--[{UNSPACED_SCRIPTS}]][[\p{{L}}\p{{M}}\p{{N}}\u200c\u200d]--[{UNSPACED_SCRIPTS}]]*"
    r"|[\p{So}\p{Emoji_Modifier}]"  # one emoji
)
_VARIATION_SELECTORS: Final = regex.compile(r"[\ufe00-\ufe0f]")


def text_normalizer() -> normalizers.Normalizer:
    """Return the normalizer of learned tokenizers: NFC, lower case, no control characters; accents are kept.

    White space becomes a space; control, format and private characters are removed, except the joiners U+200C and
    U+200D, with which Persian, Indic scripts and emoji sequences are spelled. Letters are lower-cased one by one,
    with the two rules of Unicode's SpecialCasing.txt that hold in every language that has the letter: a capital dotted
    I becomes i, and a sigma at the end of a word is written ς. A capital I becomes i in Turkish, too.
    """
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s"), " "),
            normalizers.Replace(Regex(r"[[\p{C}\x{FFFD}]&&[^\x{200C}\x{200D}]]"), ""),
            normalizers.NFC(),
            normalizers.Replace("İ", "i"),
            normalizers.Lowercase(),
            normalizers.NFC(),  # j with a caron exists as a small letter only
            normalizers.Replace(Regex(r"(?<=\p{L})σ(?![\p{L}\p{M}])"), "ς"),
        ]
    )


_NORMALIZER: Final = text_normalizer()


def normalize_text(text: str) -> str:
    """Return the text as a learned tokenizer reads and writes it, with single spaces (see `text_normalizer`)."""
    return " ".join(_NORMALIZER.normalize_str(text).split())


def split_words(text: str) -> list[str]:
    """Split a text into the tokens over which caption metrics count n-grams.

    In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, ...) each character is a token, as in
    sacrebleu's tokenizers `zh` (Han, next to words of other scripts) and `char`. Elsewhere a token is a run of letters,
    digits and combining marks. An emoji is a token. Punctuation separates tokens and is left out, as the scorers of the
    COCO caption evaluation do. The text is normalized first (`normalize_text`).
    """
    found: list[str] = _WORD.findall(_VARIATION_SELECTORS.sub("", _NORMALIZER.normalize_str(text)))
    return found
