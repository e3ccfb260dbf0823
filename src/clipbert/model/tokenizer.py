"""The text side of the processor: a WordPiece tokenizer trained on the user's texts, or any BERT tokenizer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from clipbert.errors import ClipBertError

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048, min_frequency: int = 2) -> PreTrainedTokenizerFast:
    """Train a lower-casing BERT WordPiece tokenizer; the same texts in any order give the same vocabulary.

    The vocabulary holds the special tokens, every character seen (alone and inside a word), then the most frequent
    pieces seen at least `min_frequency` times, `vocab_size` entries at most.

    Raises:
        ClipBertError: no text, or more characters than the vocabulary has room for.
    """
    texts = list(texts)
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
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
    return BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=True)


def load_tokenizer(source: str | Path, **kwargs: Any) -> PreTrainedTokenizerFast:
    """A BERT tokenizer from a folder or a hub id.

    Raises:
        ClipBertError: nothing readable there, or a tokenizer without BERT's special tokens.
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
    return tokenizer
