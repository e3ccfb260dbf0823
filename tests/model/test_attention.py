"""Attention through transformers' interface: the same numbers from each implementation, and a way to change it."""

import pytest
import torch

from clipbert.model import (
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
    ClipBertModel,
)

CLASSES = [
    ClipBertModel,
    ClipBertForRetrieval,
    ClipBertForOpenQA,
    ClipBertForMultipleChoice,
    ClipBertForCaptioning,
    ClipBertForPreTraining,
]


def arguments(kind, inputs):
    given = inputs.arguments()
    if kind is ClipBertForMultipleChoice:
        given["options_per_question"] = torch.tensor([2, 1])
    return given


@pytest.mark.parametrize("kind", CLASSES)
def test_eager_and_sdpa_agree_however_they_are_chosen(small_config, randomized, inputs, tmp_path, kind):
    randomized(kind(small_config(projection_size=8))).save_pretrained(tmp_path)
    eager = kind.from_pretrained(tmp_path, attn_implementation="eager").eval()
    sdpa = kind.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    given = arguments(kind, inputs)
    with torch.inference_mode():
        expected = eager(**given)
        for model, name in ((sdpa, "sdpa"), (sdpa, "eager"), (eager, "sdpa")):
            model.set_attn_implementation(name)
            modules = [module for module in model.modules() if hasattr(module, "config")]
            assert {module.config._attn_implementation for module in modules if module.config is model.config} == {name}
            found = model(**given)
            for output in expected:
                torch.testing.assert_close(found[output], expected[output], rtol=1e-5, atol=1e-5)


def test_the_implementation_that_is_set_is_the_one_that_runs(small_config, inputs, monkeypatch):
    model = ClipBertForRetrieval(small_config()).eval()
    calls = []
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or attention(*a, **k)
    )
    for name, layers in (("sdpa", 2), ("eager", 0), ({"": "sdpa"}, 2)):
        calls.clear()
        model.set_attn_implementation(name)
        model(**inputs.arguments())
        assert len(calls) == layers


def test_what_is_not_there_is_transformers_own_message(small_config, tmp_path):
    ClipBertForRetrieval(small_config()).save_pretrained(tmp_path)
    model = ClipBertForRetrieval.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r'attn_implementation="fast"` is not supported\. The only possible'):
        model.set_attn_implementation("fast")
    assert model.config._attn_implementation == "sdpa"
    captioning = ClipBertForCaptioning(small_config())
    with pytest.raises(ValueError, match="ClipBertForCaptioning does not support Flash Attention 2"):
        captioning.set_attn_implementation("flash_attention_2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="flash attention may be installed where a GPU is")
def test_flash_attention_that_is_not_installed(small_config, tmp_path):
    ClipBertForRetrieval(small_config()).save_pretrained(tmp_path)
    with pytest.raises(ImportError, match="FlashAttention2 has been toggled on, but it cannot be used"):
        ClipBertForRetrieval.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    with pytest.raises(ImportError, match="FlashAttention2 has been toggled on, but it cannot be used"):
        ClipBertForRetrieval(small_config()).set_attn_implementation("flash_attention_2")
