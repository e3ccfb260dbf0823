"""The Python of the README and of docs/how-to/use.md runs as it stands, with models and files of those names."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked_python import run_program
from PIL import Image

from clipbert.model import (
    ClipBertConfig,
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForRetrieval,
    ClipBertProcessor,
)

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
CLASSES = {
    "retrieval": ClipBertForRetrieval,
    "open_qa": ClipBertForOpenQA,
    "image_qa": ClipBertForOpenQA,
    "multiple_choice": ClipBertForMultipleChoice,
    "captioning": ClipBertForCaptioning,
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_video: Callable[..., Path]) -> Path:
    """Where the pages' models, videos and picture lie."""
    root = tmp_path_factory.mktemp("docs")
    tokenizer = ClipBertProcessor.train_tokenizer(["a red circle", "what color is it?"] * 2)
    for task, kind in CLASSES.items():
        torch.manual_seed(0)
        loss = "bce" if task == "image_qa" else "ce"
        config = ClipBertConfig.tiny(vocab_size=len(tokenizer), answers=["red", "two"], answer_loss=loss, **SIZES)
        kind(config).save_pretrained(root / "artifacts" / "models" / task)
        ClipBertProcessor.for_config(config, tokenizer).save_pretrained(root / "artifacts" / "models" / task)
    for seed, name in enumerate("ab"):
        tiny_video(root / f"{name}.mp4", seed=seed)
    Image.new("RGB", (48, 32), (200, 30, 20)).save(root / "a.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/how-to/use.md", "docs/how-to/captioning.md"])
def test_the_code_runs(folder: Path, page: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (PROJECT / page).read_text(), flags=re.M | re.S)
    assert blocks
    script = folder / "page.py"
    script.write_text("\n".join(blocks))
    done = run_program(script.name, cwd=folder)
    assert done.returncode == 0, done.stderr
