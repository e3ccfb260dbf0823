"""Packed against padded sequences: every head has the same loss, outputs and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from clipbert.model import (
    ClipBertConfig,
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
    ClipBertModel,
)

LENGTHS = {
    "mixed": [9, 3, 6, 4],
    "one text": [5],
    "equal lengths": [6, 6, 6, 6],
    "equal lengths under padding": [4, 4, 4, 4],
    "empty texts": [2, 7, 2, 2],  # [CLS] and [SEP]
    "longer than a row of eight": [10, 2, 9, 10],
}
CLIPS, CELLS, HIDDEN = 2, 3, 24


def given(lengths: list[int], columns: int) -> dict[str, Tensor]:
    """Texts of these lengths, two of each video, padded to a number of columns."""
    random = torch.Generator().manual_seed(len(lengths))
    mask = (torch.arange(columns) < torch.tensor(lengths)[:, None]).long()
    owners = -(-len(lengths) // 2)
    visual = torch.randn(owners, CLIPS, CELLS, HIDDEN, generator=random, dtype=torch.float64)
    return {
        "input_ids": torch.randint(5, 40, mask.shape, generator=random) * mask,
        "attention_mask": mask,
        "texts_per_video": torch.tensor([len(lengths) // owners] * owners),
        "visual_embeds": visual,
    }


def retrieval(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {"labels": torch.arange(len(inputs["input_ids"])) % 2}


def answers(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {"labels": torch.arange(len(inputs["input_ids"])) % 5}


def scores(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {"labels": torch.linspace(0, 1, 5 * len(inputs["input_ids"]), dtype=torch.float64).view(-1, 5)}


def options(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {"labels": torch.zeros_like(inputs["texts_per_video"]), "options_per_question": inputs["texts_per_video"]}


def masked(inputs: dict[str, Tensor]) -> dict[str, Any]:
    labels = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
    labels[:, ::2] = -100
    return {"mlm_labels": labels, "itm_labels": torch.arange(len(labels)) % 2}


def captions(inputs: dict[str, Tensor]) -> dict[str, Any]:
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return {"labels": labels, "loss_only": True}


HEADS: dict[str, tuple[type[Any], Callable[[dict[str, Tensor]], dict[str, Any]], dict[str, Any]]] = {
    "retrieval": (ClipBertForRetrieval, retrieval, {}),
    "open_qa": (ClipBertForOpenQA, answers, {}),
    "image_qa": (ClipBertForOpenQA, scores, {"answer_loss": "bce"}),
    "multiple_choice": (ClipBertForMultipleChoice, options, {}),
    "pretrain": (ClipBertForPreTraining, masked, {}),
    "captioning": (ClipBertForCaptioning, captions, {}),
}
OUTPUTS = ("logits", "itm_logits")


def results(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Loss, outputs and gradients."""
    visual = inputs["visual_embeds"].clone().requires_grad_()
    model.zero_grad()
    out = model(**inputs | {"visual_embeds": visual})
    out.loss.backward()
    found = {name: out[name].detach() for name in OUTPUTS if out.get(name) is not None}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": out.loss.detach(), "visual": visual.grad, **found, **gradients}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.fixture
def head(
    small_config: Callable[..., ClipBertConfig], randomized: Callable[[PreTrainedModel], PreTrainedModel]
) -> Callable[[str, str], tuple[PreTrainedModel, Callable[[dict[str, Tensor]], dict[str, Any]]]]:
    def make(name: str, attention: str = "sdpa") -> tuple[PreTrainedModel, Any]:
        kind, labels, fields = HEADS[name]
        model = kind._from_config(small_config(**fields), attn_implementation=attention)
        return randomized(model.double()).train(), labels

    return make


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> Callable[[PreTrainedModel, dict[str, Any]], dict[str, Tensor]]:
    """Return the results of a model that does not pack."""

    def run(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Tensor]:
        with monkeypatch.context() as patch:
            patch.setattr(ClipBertModel, "supports_packing", property(lambda self: False))
            return results(model, inputs)

    return run


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_the_same_loss_and_gradients(name: str, lengths: str, head, padded) -> None:
    model, labels = head(name)
    inputs = given(LENGTHS[lengths], 10 if lengths != "equal lengths" else 6)
    inputs |= labels(inputs)
    expected = padded(model, inputs)
    assert_equal(results(model, inputs), expected)
    model.eval()
    assert_equal(results(model, inputs), expected)


@pytest.mark.parametrize("name", HEADS)
def test_on_a_gpu_the_lengths_are_those_of_the_host(name: str, head, padded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, labels = head(name)
    inputs = given(LENGTHS["mixed"], 10)
    inputs |= labels(inputs)
    for room in ("inputs", "heads", "modeling"):
        monkeypatch.setattr(f"clipbert.model.{room}.can_read_values", lambda values: False)
    expected = padded(model, inputs)
    widths: list[int] = []
    model.clipbert.encoder.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[:2].numel()))
    assert_equal(results(model, inputs | {"text_lengths": LENGTHS["mixed"]}), expected)
    assert_equal(results(model, inputs | {"text_lengths": [9, 5, 10, 4]}), expected)
    assert_equal(results(model, inputs), expected)
    assert widths[0] < widths[1] < widths[2]


def test_words_are_predicted_at_the_given_positions_alone(head) -> None:
    model, labels = head("pretrain")
    inputs = given(LENGTHS["mixed"], 10)
    inputs |= labels(inputs)
    at = (inputs["mlm_labels"].flatten() != -100).nonzero()[:, 0]
    expected = results(model, inputs)
    everywhere = model(**inputs).mlm_logits
    assert_equal(results(model, inputs | {"mlm_positions": at}), expected)
    chosen = model(**inputs, mlm_positions=at).mlm_logits
    assert chosen.shape == (len(at), CLIPS, 40)
    torch.testing.assert_close(chosen, everywhere.transpose(1, 2).flatten(0, 1)[at])


@pytest.mark.parametrize("name", ["retrieval", "captioning"])
def test_with_attention_that_adds_its_mask(name: str, head, padded) -> None:
    model, labels = head(name, "eager")
    inputs = given(LENGTHS["mixed"], 10)
    inputs |= labels(inputs)
    assert_equal(results(model, inputs), padded(model, inputs))


def test_activations_of_the_last_layer_are_recomputed_too(head, padded) -> None:
    model, labels = head("retrieval")
    inputs = given(LENGTHS["mixed"], 10)
    inputs |= labels(inputs)
    expected = padded(model, inputs)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(results(model, inputs), expected)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([9, 3, 6], "text_lengths holds 3 lengths: expected 4, one per text"),
        ([9, 3, 6, 0], "text_lengths holds 0: expected 1 to 10"),
        ([9, 3, 11, 4], "text_lengths holds 11: expected 1 to 10"),
        ([9, 3, 5, 4], r"text_lengths\[2\] is 5, but attention_mask has a token at position 5"),
    ],
)
def test_lengths_that_do_not_fit_the_mask_are_refused(lengths: list[int], message: str, head) -> None:
    model, _ = head("retrieval")
    with pytest.raises(ValueError, match=message):
        model(**given(LENGTHS["mixed"], 10), text_lengths=lengths)
