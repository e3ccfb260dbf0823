"""Captioning: drawing captions, rows of predictions, metrics and the constant caption."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from clipbert.config.tasks import CaptioningParams
from clipbert.model import ClipBertConfig, ClipBertForCaptioning, ClipBertProcessor
from clipbert.tasks.batch import Batch, Encoded, Example
from clipbert.tasks.captioning import Captioning
from clipbert.tasks.predict import ProcessorTokens

TEXTS = [["a red square moves left", "the square moves"], ["a green circle stays still"], ["a blue star"]]
EXAMPLES = [
    Example(f"v{i}", [f"c{i}{j}" for j in range(len(texts))], texts, [""] * len(texts), [""] * len(texts))
    for i, texts in enumerate(TEXTS)
]


@pytest.fixture
def tokens() -> ProcessorTokens:
    tokenizer = ClipBertProcessor.train_tokenizer([text for some in TEXTS for text in some], vocab_size=200)
    return ProcessorTokens(
        ClipBertProcessor.for_config(ClipBertConfig.tiny(vocab_size=len(tokenizer)), tokenizer), torch.device("cpu")
    )


def small_model(tokens: ProcessorTokens, task: Captioning) -> ClipBertForCaptioning:
    torch.manual_seed(0)
    fields = task.objective.config_fields(EXAMPLES)
    return ClipBertForCaptioning(
        ClipBertConfig.tiny(
            vocab_size=len(tokens.processor.tokenizer), num_hidden_layers=1, hidden_dropout_prob=0.0, **fields
        )
    )


def test_a_step_draws_one_caption_of_a_video() -> None:
    drawn = [
        Captioning(CaptioningParams()).examples.draw(EXAMPLES[0], np.random.default_rng(seed)) for seed in range(20)
    ]
    assert {len(some) for some in drawn} == {1}
    assert {some[0] for some in drawn} == {0, 1}


def test_it_learns_to_say_what_it_was_told(tokens: ProcessorTokens) -> None:
    task = Captioning(CaptioningParams(max_length=48, contrastive_weight=1.0))
    model = small_model(tokens, task)
    ids, mask = tokens([texts[0] for texts in TEXTS])
    pixels = torch.zeros(3, 1, 1, 3, 96, 96, dtype=torch.uint8)
    for video in range(3):
        pixels[video, :, :, video] = 200
    ones = torch.ones(3, dtype=torch.long)
    batch = Batch(pixels, ids, mask, ones, 0 * ones, ["c00", "c10", "c20"], ones)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss, parts = task.objective.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert set(parts) == {"writing", "contrastive"}
    assert Captioning(CaptioningParams(contrastive_weight=0.0)).objective.loss(model, batch)[1] == {}
    model.eval()
    with torch.inference_mode():
        videos = Encoded([e.media for e in EXAMPLES], list(model.encode_video(pixels)))
        rows = list(task.evaluator.predict(model, videos, EXAMPLES, tokens, batch_size=4))
    assert len(rows) == task.evaluator.count(EXAMPLES) == 3
    assert [row["predicted"] for row in rows] == [texts[0] for texts in TEXTS]
    items = pd.DataFrame(rows)
    metrics = task.evaluator.metrics(items) | task.evaluator.baselines(items, EXAMPLES)
    assert metrics["captioning/cider"] == pytest.approx(1000 * items["score"].mean())
    constant = task.evaluator.baseline_scores(items, EXAMPLES)["constant"]
    assert metrics["captioning/constant_cider"] == pytest.approx(1000 * constant.mean())
    assert metrics["captioning/bleu4"] > 50
    assert metrics["captioning/different"] == 3
    assert metrics["captioning/cider"] > metrics["captioning/constant_cider"] > 0
    assert task.report.lines(rows[0])[0] == "a red square moves left"


def test_there_are_no_projections_without_the_contrastive_term() -> None:
    task = Captioning(CaptioningParams(contrastive_weight=0.0))
    assert task.objective.config_fields(EXAMPLES) == {"projection_size": None}
    assert task.examples.labels(EXAMPLES[0], [1], SimpleNamespace()) == [0]
