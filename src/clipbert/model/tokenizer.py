"""Tokenizer of the processor: WordPiece trained on the user's texts, or any BERT tokenizer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import regex
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from clipbert.errors import ClipBertError
from clipbert.text_normalization import UNSPACED_SCRIPTS, split_words, text_normalizer

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# In scripts without spaces the "word" of a WordPiece tokenizer is a whole phrase.
MAX_WORD_CHARS = 1000  # longer ones become [UNK]; BERT's limit of 100 would lose sentences
MAX_UNSPACED_PIECE = 4  # characters: longer pieces are whole phrases of the training texts
_LONG_PIECE = regex.compile(rf"(?:##)?.*[{UNSPACED_SCRIPTS}].*", regex.V1)

# Spaces in a decoded text that people do not write, because tokenization splits words from punctuation. Each pattern
# matches spaces only; they are removed in this order.
_CHINESE = r"[\p{Han}\p{Hiragana}\p{Katakana}ー]"
_FULL_WIDTH = r"[[\x{3000}-\x{303F}\x{FF00}-\x{FFEF}]&&[\p{P}]]"
_UNWRITTEN_SPACES = (
    r" (?=[\p{Pe}\p{Pf}]|“[^”]*$)",  # before a closing bracket or quotation mark, but not inside „German“
    r" (?=[[\p{Po}]&&[^\"'&*@#\\¿¡]])",  # before a full stop, comma, percent sign, danda, ...
    r"(?<=[[\p{Ps}\p{Pi}¿¡@#]&&[^“]]) |(?<=“) (?=[^“”]*”)",  # after an opening bracket or quotation mark
    r"(?<=[/\\_]) | (?=[\\_])|(?<=\$) (?=\p{Nd})",
    r"(?<=[\p{L}\p{N}]) (?=[-‐] [\p{L}\p{N}])",  # well-known
    r"(?<=[\p{L}\p{N}][-‐]) (?=[\p{L}\p{N}])",
    r"(?<=[\p{L}\p{M}]) (?=['’] \p{L})",  # dog's, l'école
    r"(?<=[\p{L}\p{M}]['’]) (?=\p{L})(?<!\p{L}s['’] )",  # but: dogs' bowl
    r"(?<=\p{Nd}[.:]) (?=\p{Nd})|(?<=\p{Nd},) (?=\p{Nd}{3}(?!\p{Nd}))",  # 2.5, 10:30, 1,000
    # inside a pair of straight quotation marks: an odd number of them follows the first
    r"(?<=\") (?=[^\"]*\"(?:[^\"]*\"[^\"]*\")*[^\"]*$)| (?=\"(?:[^\"]*\"[^\"]*\")*[^\"]*$)",
    rf"(?<={_FULL_WIDTH}) | (?={_FULL_WIDTH})",  # around the punctuation of Chinese and Japanese
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048, min_frequency: int = 2) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece tokenizer; the vocabulary does not depend on the order of the texts.

    The vocabulary holds the special tokens, every character of the texts (alone and inside a word), then the most
    frequent pieces, `vocab_size` entries at most. Texts are normalized by `text_normalizer`: accents and marks are
    kept, in composed form. `decode` writes no spaces before punctuation and between the characters of scripts without
    spaces.

    Args:
        texts: training texts.
        vocab_size: maximum number of entries.
        min_frequency: minimum count of a piece.

    Raises:
        ClipBertError: no text, or more characters than the vocabulary has room for.
    """
    texts = list(texts)
    normalizer, splitter = text_normalizer(), pre_tokenizers.BertPreTokenizer()
    characters = sorted({char for text in texts for char in normalizer.normalize_str(text) if not char.isspace()})
    if not characters:
        raise ClipBertError("the tokenizer has no text to learn from: give training texts that are not empty.")
    # The trainer numbers characters in the order of a randomly seeded hash table and breaks ties by number:
    # handing them over as known tokens fixes both.
    known = SPECIAL_TOKENS + characters + [f"##{char}" for char in characters]
    if len(known) > vocab_size:
        raise ClipBertError(
            f"vocab_size is {vocab_size}: the texts have {len(characters)} different characters, "
            f"which alone need {len(known)}. Use a larger vocab_size."
        )
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=known, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _word_piece(_without_phrases(tokenizer.get_vocab()), characters)


def load_tokenizer(source: str | Path, **kwargs: Any) -> PreTrainedTokenizerFast:
    """Load a BERT tokenizer from a folder or by a hub id.

    Raises:
        ClipBertError: no tokenizer can be read, or it lacks BERT's special tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), **kwargs)
    except (OSError, ValueError) as error:
        raise ClipBertError(
            f"{source}: no tokenizer could be read ({error}). Give a folder with tokenizer.json and "
            "tokenizer_config.json, or the id of a BERT model."
        ) from error
    if not tokenizer.is_fast or None in (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id):
        raise ClipBertError(f"{source}: not a BERT tokenizer: expected a fast one with [PAD], [CLS] and [SEP] tokens.")
    if isinstance(tokenizer.backend_tokenizer.decoder, decoders.WordPiece):
        # BERT's own decoder turns "do not" into "don't" and puts a space after each Chinese character.
        tokenizer.backend_tokenizer.decoder = _decoder((*_UNWRITTEN_SPACES, rf"(?<={_CHINESE}) (?={_CHINESE})"))
        tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def unwritable(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return the texts that change when this tokenizer encodes and decodes them, each with its decoded form.

    A tokenizer of an uncased BERT checkpoint strips accents, and any tokenizer lacks some characters. A model cannot
    generate such texts, so its captions score below the maximum even if they are right.
    """
    texts = list(texts)
    if not texts:
        return []
    written = tokenizer.batch_decode(tokenizer(texts)["input_ids"], skip_special_tokens=True)
    return [(text, back) for text, back in zip(texts, written, strict=True) if split_words(text) != split_words(back)]


def unknown_share(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> tuple[float, str]:
    """Return the share of unknown tokens ([UNK]) in the texts, without special tokens, and the text with the most.

    A word with a character that the vocabulary lacks becomes one unknown token, so a script that the tokenizer does not
    know gives a model nothing to read.
    """
    texts = list(texts)
    if not texts:
        return 0.0, ""
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    unknown = [ids.count(tokenizer.unk_token_id) for ids in encoded]
    most = max(range(len(texts)), key=unknown.__getitem__)
    return sum(unknown) / max(1, sum(map(len, encoded))), texts[most]


def _decoder(unwritten_spaces: Iterable[str]) -> decoders.Decoder:
    """Return a decoder from WordPiece tokens to text without the spaces that these patterns match."""
    removals = [decoders.Replace(Regex(pattern), "") for pattern in unwritten_spaces]
    return decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *removals])


def _without_phrases(vocabulary: dict[str, int]) -> dict[str, int]:
    """Drop the pieces of scripts without spaces that are longer than `MAX_UNSPACED_PIECE`, and close the gaps."""
    kept = [
        piece
        for piece in sorted(vocabulary, key=lambda piece: vocabulary[piece])
        if len(piece.removeprefix("##")) <= MAX_UNSPACED_PIECE or not _LONG_PIECE.fullmatch(piece)
    ]
    return {piece: number for number, piece in enumerate(kept)}


def _word_piece(vocabulary: dict[str, int], characters: list[str]) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a vocabulary; `characters` are the single characters in it."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARS))
    tokenizer.normalizer = text_normalizer()
    known = "".join(regex.escape(char) for char in characters if regex.match(f"[{UNSPACED_SCRIPTS}]", char, regex.V1))
    # An unknown character makes its whole word [UNK]; in scripts without spaces, split it off to lose only it.
    unseen = f"[[{UNSPACED_SCRIPTS}]&&[^{known}]]" if known else f"[{UNSPACED_SCRIPTS}]"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(unseen), "isolated")]
    )
    start, end = (("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"]))
    tokenizer.post_processor = processors.BertProcessing(end, start)
    tokenizer.decoder = _decoder(_UNWRITTEN_SPACES)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
    )
