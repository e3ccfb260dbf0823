"""The tokenizer that a training will have and its text limit, before there is a model."""

from pathlib import Path

from clipbert.config.schema import ModelParams
from clipbert.data.manifest import read_texts
from clipbert.data.validation.truncation import TextLimit
from clipbert.errors import ClipBertError
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.tokenizer import load_tokenizer, train_tokenizer

MAX_VOCABULARY_TEXTS = 200_000  # enough for a vocabulary; more take long


def text_limit(root: Path, manifest: Path, params: ModelParams) -> TextLimit | str:
    """Return the tokenizer that a training will have and its text limit, or why there is none.

    The tokenizer is that of `model.text`, or one learned from all training texts as `train` learns one from those of a
    task: for a task that reads only some of them the numbers are close estimates.

    Args:
        root: the project's folder, from which a relative `model.text` is read.
        manifest: the folder of the manifest.
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
    preset = ClipBertConfig.tiny() if params.preset == "tiny" else ClipBertConfig.base()
    length = params.max_text_length or preset.max_text_length
    return TextLimit(lambda texts: tokenizer(texts, verbose=False)["input_ids"], length)
