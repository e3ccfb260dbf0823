"""Pretraining: wrong texts are another image's and teach no words; metrics and baselines by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_trainings import build_from_params

from clipbert.config.schema import Params
from clipbert.config.tasks import PretrainParams, TasksParams
from clipbert.data.manifest import read_texts
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.model.losses import IGNORED
from clipbert.tasks import make_task
from clipbert.tasks.batch import Batch, Example
from clipbert.tasks.examples import training_texts
from clipbert.tasks.predict import predict
from clipbert.tasks.pretrain import Pretrain
from clipbert.training.data import DistributedBatchSampler, TrainingSamples, training_batches

SMALL = Params.model_validate(
    {"model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48}}
)


def example(media: str, *texts: str) -> Example:
    return Example(media, [f"{media}{i}" for i in range(len(texts))], list(texts), [""] * len(texts), [""] * len(texts))


EXAMPLES = [example("a", "one red square", "a red box"), example("b", "two blue rings"), example("c", "a green line")]


def batch_of(unmatched: float, examples: list[Example] = EXAMPLES, seeds: tuple[int, ...] = (1, 2, 3)) -> Batch:
    task = Pretrain(PretrainParams(unmatched_probability=unmatched))
    model, processor = build_from_params(task, EXAMPLES, SMALL)
    encoded = processor(texts=[text for e in examples for text in e.texts])
    count = sum(len(e.texts) for e in examples)
    raw = Batch(
        pixel_values=torch.zeros(len(examples), 1, 1, 3, 48, 48, dtype=torch.uint8),
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        texts_per_video=torch.tensor([len(e.texts) for e in examples]),
        labels=torch.ones(count, dtype=torch.long),
        ids=[i for e in examples for i in e.ids],
        texts_per_item=torch.ones(count, dtype=torch.long),
    )

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        found = processor(texts=texts)
        return found["input_ids"], found["attention_mask"]

    made = task.examples.prepare(raw, list(seeds[: len(examples)]), tokenize, model.config)
    assert made.mlm_labels is not None
    restored = torch.where(made.mlm_labels != IGNORED, made.mlm_labels, made.input_ids)
    if unmatched == 0:
        assert torch.equal(restored, raw.input_ids)
    return made


def test_matched_texts_have_tokens_to_tell_and_only_they() -> None:
    batch = batch_of(0.0)
    assert batch.mlm_labels is not None
    assert batch.labels.tolist() == [1, 1, 1, 1]
    assert ((batch.mlm_labels != IGNORED).sum(dim=1) >= 1).all()


def test_a_wrong_text_is_masked_too_but_teaches_no_words() -> None:
    batch = batch_of(1.0)
    assert batch.mlm_labels is not None
    assert batch.labels.tolist() == [0, 0, 0, 0]
    assert (batch.mlm_labels == IGNORED).all()
    masked = (batch.input_ids == 4).any(dim=1)
    assert masked.any()  # otherwise a [MASK] alone would give the matched texts away


def test_without_another_text_every_text_stays_with_its_image() -> None:
    assert batch_of(1.0, [EXAMPLES[0]]).labels.tolist() == [1, 1]
    same = [example("a", "a green line"), example("b", "a green line")]
    assert batch_of(1.0, same).labels.tolist() == [1, 1]


def test_the_loaders_draws_are_a_function_of_seed_epoch_and_image(tiny_project: Path) -> None:
    task = make_task("pretrain", SMALL.tasks)
    examples = task.examples.read(read_texts(tiny_project / "artifacts" / "manifest"), "train")
    model, processor = build_from_params(task, examples, SMALL)
    cache = FrameCache(tiny_project / "artifacts" / "frames")

    def batches(start: int) -> list[Batch]:
        order = DistributedBatchSampler(len(examples), batch_size=4, epochs=2, seed=3, start=start)
        samples = TrainingSamples(cache, examples, task, model.config, seed=3)
        return list(training_batches(samples, order, processor, 0, pin_memory=False))

    straight, resumed = batches(0), batches(2)
    for one, two in zip(straight[2:], resumed, strict=True):
        assert torch.equal(one.input_ids, two.input_ids)
        assert torch.equal(one.labels, two.labels)
        assert torch.equal(one.mlm_labels, two.mlm_labels)  # type: ignore[arg-type]


def test_the_contrastive_term_is_an_option_and_trains_towers(tiny_project: Path) -> None:
    losses = {}
    for weight in (0.0, 2.0):
        params = SMALL.model_copy(
            update={"tasks": TasksParams.model_validate({"pretrain": {"contrastive_weight": weight}})}
        )
        task = make_task("pretrain", params.tasks)
        examples = task.examples.read(read_texts(tiny_project / "artifacts" / "manifest"), "train")
        torch.manual_seed(0)
        model, processor = build_from_params(task, examples, params)
        cache = FrameCache(tiny_project / "artifacts" / "frames")
        samples = TrainingSamples(cache, examples, task, model.config, seed=3)
        (batch,) = training_batches(
            samples,
            DistributedBatchSampler(len(examples), len(examples), epochs=1, seed=3),
            processor,
            0,
            pin_memory=False,
        )
        loss, losses[weight] = task.objective.loss(model.train(), batch)
        assert torch.isclose(loss, sum(losses[weight].values()) + losses[weight].get("contrastive", 0.0))  # type: ignore[arg-type]
        loss.backward()
        if weight:
            assert model.contrast.text_projection.weight.grad.abs().sum() > 0
            assert torch.isclose(losses[weight]["contrastive"], torch.tensor(len(examples)).log(), rtol=0.5)
        else:
            assert model.contrast is None
            assert batch.caption_ids is None
    assert losses[0.0].keys() == {"mlm", "itm"}


def test_predictions_are_the_same_twice_and_hide_the_same_from_every_model(tiny_project: Path) -> None:
    task = make_task("pretrain", SMALL.tasks)
    texts = read_texts(tiny_project / "artifacts" / "manifest")
    train, test = task.examples.read(texts, "train"), task.examples.read(texts, "test")
    cache = FrameCache(tiny_project / "artifacts" / "frames")

    def rows(seed: int) -> pd.DataFrame:
        torch.manual_seed(seed)
        model, processor = build_from_params(task, train, SMALL)
        return predict(task.evaluator, model.eval(), processor, cache, test, clips=2, batch_size=64)

    first, again, other = rows(0), rows(0), rows(1)
    pd.testing.assert_frame_equal(first, again)
    assert first["masked_tokens"].tolist() == other["masked_tokens"].tolist()
    assert first["wrong_text"].tolist() == other["wrong_text"].tolist()
    assert all(row.wrong_text != row.text for row in first.itertuples())
    assert sorted(first["item_id"]) == sorted(i for e in test for i in e.ids)
    assert task.evaluator.metrics(first).keys() | task.evaluator.baselines(first, train).keys() >= set(
        task.evaluator.blank_frame_metrics
    )


def test_metrics_and_baselines() -> None:
    items = pd.DataFrame(
        {
            "masked_tokens": [[7, 7], [8], [9]],
            "mlm_right": [2, 1, 0],
            "itm_score": [1.0, 0.5, 0.0],
            "score": [1.0, 0.7, 0.0],
            "media": ["a", "b", "c"],
        }
    )
    task = Pretrain(PretrainParams())
    assert task.evaluator.metrics(items) == {
        "pretrain/accuracy": 62.5,
        "pretrain/mlm_accuracy": 75.0,
        "pretrain/itm_accuracy": 50.0,
        "pretrain/tokens": 4.0,
        "pretrain/texts": 3.0,
    }
    assert task.evaluator.baselines(items, []) == {
        "pretrain/majority_mlm_accuracy": 50.0,
        "pretrain/majority_itm_accuracy": 50.0,
        "pretrain/majority_accuracy": 50.0,
    }


def test_the_most_frequent_token_scores_by_item() -> None:
    items = pd.DataFrame({"masked_tokens": [[7, 7], [8], [7, 9], []]})
    scores = Pretrain(PretrainParams()).evaluator.baseline_scores(items, [])["majority"]
    assert scores.tolist() == [0.75, 0.25, 0.5, 0.25]


def test_captions_that_are_all_the_same_teach_no_matching() -> None:
    task = Pretrain(PretrainParams())
    with pytest.raises(ClipBertError, match="expected at least 2 different ones"):
        task.objective.config_fields([example("a", "x"), example("b", "x")])


def test_a_step_draws_several_texts_and_never_one_twice() -> None:
    task = Pretrain(PretrainParams(texts_per_image=2))
    drawn = [task.examples.draw(example("a", "x", "y", "z"), np.random.default_rng(seed)) for seed in range(30)]
    assert {len(set(some)) for some in drawn} == {2}
    assert {i for some in drawn for i in some} == {0, 1, 2}


def test_training_words_are_all_that_the_training_split_says() -> None:
    texts = pd.DataFrame(
        {
            "split": ["train", "train", "test"],
            "text": ["a red square", "how many?", "unseen"],
            "answer": [None, "three", "hidden"],
            "options": [None, ["three", "four"], ["no"]],
        }
    )
    assert training_texts(texts) == ["a red square", "four", "how many?", "three"]
    assert training_texts(texts[::-1]) == training_texts(texts)
