"""The index that docs/concepts/tasks.md builds, as it stands there, finds what the search of the same model finds."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipbert import pipeline
from clipbert.model import ClipBertConfig, ClipBertForRetrieval, ClipBertProcessor

pytestmark = pytest.mark.slow  # the pool that decodes files starts processes

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "tasks.md"


def test_the_pages_index_is_the_search(
    tmp_path: Path, tiny_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokenizer = ClipBertProcessor.train_tokenizer(["a red circle"] * 2)
    config = ClipBertConfig.tiny(vocab_size=len(tokenizer), image_size=64, initializer_range=0.2)
    ClipBertForRetrieval(config).save_pretrained("artifacts/models/retrieval")
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained("artifacts/models/retrieval")
    for seed, name in enumerate("ab"):
        tiny_video(tmp_path / f"{name}.mp4", seed=seed)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    said: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), said)
    expected = pipeline("retrieval", "artifacts/models/retrieval")("a red circle", ["a.mp4", "b.mp4"])
    assert said["found"] == [row["video"] for row in expected]
    assert sorted(said["scores"], reverse=True) == pytest.approx([row["score"] for row in expected], abs=1e-4)
    with np.load("index.npz") as index:
        assert index["paths"].tolist() == ["a.mp4", "b.mp4"]
        assert np.linalg.norm(index["vectors"], axis=1) == pytest.approx(1, abs=1e-5)
