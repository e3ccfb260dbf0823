"""Export of a trained model to a folder that `clipbert.model.load` reads."""

from pathlib import Path
from typing import Any

import transformers

from clipbert.files.atomic import atomic_directory
from clipbert.model.confidence import Confidence
from clipbert.model.weights.card import write_card
from clipbert.model.weights.checksums import sign_folder


def export(model: Any, processor: Any, out: Path, card: str, confidence: Confidence | None = None) -> None:
    """Write config.json, model.safetensors, the processor, the tokenizer, confidence.json and the model card."""
    transformers.utils.logging.disable_progress_bar()  # it would print two lines for one small file
    model.to("cpu")
    with atomic_directory(out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if confidence is not None:
            confidence.save(folder)
        write_card(folder, card)
        sign_folder(folder)
