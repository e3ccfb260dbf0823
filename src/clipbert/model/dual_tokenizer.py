"""Tokenizer of a pretrained dual encoder: texts to ids of a fixed length."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import cached_file

from clipbert.errors import ClipBertError, first_line

logger = logging.getLogger(__name__)

FOLDER = "dual_encoder"  # of the tokenizer's files in a model folder


# One of these has the vocabulary. transformers makes an empty tokenizer where all are missing.
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


@dataclass
class DualTokenizer:
    """Tokenizer of CLIP (77 BPE tokens) or SigLIP (64 tokens); texts are cut and padded to `length`.

    The first text that is cut is logged as a warning.

    Attributes:
        tokenizer: of transformers.
        length: number of positions of the text encoder.
    """

    tokenizer: Any
    length: int
    _warned: bool = field(default=False, init=False, repr=False, compare=False)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids (N, length)."""
        encoded = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=self.length)
        if not self._warned:
            self._warn_of_cut_text(texts)
        return torch.tensor(encoded["input_ids"])

    def _warn_of_cut_text(self, texts: Sequence[str]) -> None:
        for number, text in enumerate(texts):
            # a token has at least one byte, so most texts need no second look
            if len(text.encode()) + self.tokenizer.num_special_tokens_to_add() <= self.length:
                continue
            tokens = len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])
            if tokens > self.length:
                self._warned = True
                logger.warning(
                    "texts[%d] has %d tokens of the dual encoder: it reads %d, and longer texts are cut. This "
                    "warning is shown once.",
                    number,
                    tokens,
                    self.length,
                )
                return

    def save(self, folder: Path) -> list[Path]:
        """Write the files of the tokenizer into the subfolder of a model folder; return their paths."""
        (folder / FOLDER).mkdir(exist_ok=True)
        return [Path(name) for name in self.tokenizer.save_pretrained(str(folder / FOLDER))]


def load_dual_tokenizer(source: str | Path, length: int, kind: str | None = None, **kwargs: Any) -> DualTokenizer:
    """Load the tokenizer of a dual encoder from a folder or by a hub id.

    Args:
        length: number of positions of the text encoder.
        kind: "clip", "siglip" or "siglip2" for a source of other software; None: written by `DualTokenizer.save`.
        kwargs: passed to `AutoTokenizer.from_pretrained`.

    Raises:
        ClipBertError: no tokenizer can be read, or it cannot pad.
    """
    try:
        _check_files(str(source), bool(kwargs.get("local_files_only")))
        tokenizer = AutoTokenizer.from_pretrained(str(source), **kwargs)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise ClipBertError(
            f"{source}: no tokenizer could be read ({first_line(error)}). Expected the tokenizer files of the model, "
            "such as tokenizer.json and tokenizer_config.json, in the same place."
        ) from error
    if tokenizer.pad_token_id is None:
        raise ClipBertError(f"{source}: its tokenizer has no padding token: expected that of CLIP or SigLIP.")
    if kind == "clip":
        tokenizer.padding_side = "right"  # the text encoder is causal: what follows the end token has no effect
    return DualTokenizer(tokenizer, length)


def _check_files(source: str, local: bool) -> None:
    """Raise OSError if the source has no vocabulary."""
    for name in VOCABULARIES:
        if cached_file(source, name, local_files_only=local, _raise_exceptions_for_missing_entries=False) is not None:
            return
    raise OSError(f"none of {', '.join(VOCABULARIES)} is there")
