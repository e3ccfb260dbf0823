"""Tokenizer, text limit and clips of a future training, for checks before there is a model."""

from pathlib import Path

from clipbert.config.schema import ModelParams
from clipbert.data.manifest import read_texts
from clipbert.data.validation.truncation import TextLimit
from clipbert.errors import ClipBertError
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.tokenizer import load_tokenizer, train_tokenizer

MAX_VOCABULARY_TEXTS = 200_000  # enough for a vocabulary; more would only take longer


def text_limit(root: Path, manifest: Path, params: ModelParams) -> TextLimit | str:
    """Return the tokenizer of a future training with its text limit, or a message on why there is none.

    The tokenizer is that of `model.text`, or one trained on all training texts. A task trains it on its own texts
    only, so for some tasks the token counts are close estimates.

    Args:
        root: project folder, against which a relative `model.text` is resolved.
        manifest: folder of the manifest.
        params: section `model` of the parameters.
    """
    source = params.text_from
    try:
        if source is not None:
            tokenizer = load_tokenizer(root / source if (root / source).is_dir() else source)
        else:
            texts = read_texts(manifest)
            trained = texts[texts["split"] == "train"]
            options = (option for options in trained["options"].dropna() for option in options)
            learned = sorted({*trained["text"], *trained["answer"].dropna(), *options})
            every = max(1, len(learned) // MAX_VOCABULARY_TEXTS)
            tokenizer = train_tokenizer(learned[::every], vocab_size=params.vocab_size)
    except ClipBertError as error:
        return str(error)
    length = params.max_text_length or _preset(params).max_text_length
    return TextLimit(lambda texts: tokenizer(texts, verbose=False)["input_ids"], length)


def frames_per_clip(params: ModelParams) -> int:
    """Return the frames of a clip of the future training."""
    return int(params.frames_per_clip or _preset(params).frames_per_clip)


def _preset(params: ModelParams) -> ClipBertConfig:
    return ClipBertConfig.preset(params.preset)
