"""The models against the paper written down with explicit loops: random weights, every head and aggregation."""

import copy

import pytest
import torch
from paper_oracle import Oracle, loss

from clipbert.model import (
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
)

BASIC = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24],
    "depths": [1, 2, 1],
    "layer_type": "basic",
}


def oracle_of(model):
    return Oracle({name: value.detach() for name, value in model.state_dict().items()}, model.config)


def joined(clip_logits, how):
    if how == "lse":
        return clip_logits.exp().sum(dim=1).log()
    return clip_logits.mean(dim=1) if how == "mean" else clip_logits.max(dim=1).values


def assert_close(found, expected):
    tolerance = 1e-4 if found.dtype == torch.float32 else 1e-6
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


def variants(model):
    """The float64 model and its float32 copy, each with every aggregation."""
    for version in (model, copy.deepcopy(model).float()):
        for how in ("lse", "mean", "max"):
            version.config.score_aggregation = how
            yield version, how


def test_retrieval(small_config, randomized, inputs):
    double = randomized(ClipBertForRetrieval(small_config()).double())
    expected = oracle_of(double).clip_logits(inputs.pixel_values, inputs.input_ids, inputs.attention_mask, [2, 1])
    assert expected.shape == (3, 2, 2)
    for model, how in variants(double):
        output = model(**inputs.arguments(), labels=torch.tensor([1, 0, 1]))
        assert_close(output.clip_logits, expected)
        assert_close(output.logits, joined(expected, how))
        assert_close(output.loss, loss(expected, [1, 0, 1], how))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_basic_blocks_and_attention_backends(small_config, randomized, inputs, attention):
    config = small_config(vision=BASIC)
    model = randomized(ClipBertForRetrieval._from_config(config, attn_implementation=attention).double())
    expected = oracle_of(model).clip_logits(inputs.pixel_values, inputs.input_ids, inputs.attention_mask, [2, 1])
    assert_close(model(**inputs.arguments()).clip_logits, expected)


def test_ranking_retrieval(small_config, randomized, inputs):
    config = small_config(retrieval_loss="ranking", ranking_margin=0.2)
    double = randomized(ClipBertForRetrieval(config).double())
    expected = oracle_of(double).clip_logits(inputs.pixel_values, inputs.input_ids, inputs.attention_mask, [2, 1])
    for model, how in variants(double):
        output = model(**inputs.arguments(), labels=torch.tensor([0, 1, 1]))
        unmatched, matched, _ = joined(expected, how).squeeze(1).sigmoid()
        assert output.logits.shape == (3, 1)
        assert_close(output.loss, (0.2 + unmatched - matched).clamp(min=0))


def test_open_qa(small_config, randomized, inputs):
    double = randomized(ClipBertForOpenQA(small_config()).double())
    expected = oracle_of(double).clip_logits(inputs.pixel_values, inputs.input_ids, inputs.attention_mask, [2, 1])
    assert expected.shape == (3, 2, 5)
    for model, how in variants(double):
        output = model(**inputs.arguments(), labels=torch.tensor([4, -100, 0]))
        assert_close(output.logits, joined(expected, how))
        assert_close(output.loss, loss(expected[[0, 2]], [4, 0], how))


def soft_score_loss(logits, scores):
    """Per text the sum over the answers of -score log(p) - (1 - score) log(1 - p); the mean over the texts."""
    losses = []
    for row, wanted in zip(logits, scores, strict=True):
        terms = []
        for logit, score in zip(row, wanted, strict=True):
            p = 1 / (1 + torch.exp(-logit))
            terms.append(-score * torch.log(p) - (1 - score) * torch.log(1 - p))
        losses.append(sum(terms))
    return sum(losses) / len(losses)


def test_image_qa(small_config, randomized, inputs):
    double = randomized(ClipBertForOpenQA(small_config(answer_loss="bce")).double())
    expected = oracle_of(double).clip_logits(inputs.pixel_values, inputs.input_ids, inputs.attention_mask, [2, 1])
    scores = torch.tensor([[1.0, 0.3, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0.6, 0.9, 0, 1.0]])
    for model, how in variants(double):
        output = model(**inputs.arguments(), labels=scores)
        assert_close(output.clip_logits, expected)
        assert_close(output.logits, joined(expected, how))
        assert_close(output.loss, soft_score_loss(joined(expected, how), scores))


def test_image_qa_of_one_frame(small_config, randomized, inputs):
    model = randomized(ClipBertForOpenQA(small_config(answer_loss="bce")).double())
    images = inputs.pixel_values[:, :1, :1]
    expected = oracle_of(model).clip_logits(images, inputs.input_ids, inputs.attention_mask, [2, 1])
    scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    output = model(**(inputs.arguments() | {"pixel_values": images}), labels=scores)
    assert_close(output.loss, soft_score_loss(expected[:, 0], scores))


def test_multiple_choice(small_config, randomized, inputs):
    double = randomized(ClipBertForMultipleChoice(small_config()).double())
    ids, mask = inputs.input_ids[[0, 1, 2, 2, 0, 1]], inputs.attention_mask[[0, 1, 2, 2, 0, 1]]
    clip_logits = oracle_of(double).clip_logits(inputs.pixel_values, ids, mask, [3, 3])
    expected = clip_logits.view(2, 3, 2).transpose(1, 2)  # videos, clips, options
    for model, how in variants(double):
        output = model(inputs.pixel_values, ids, mask, torch.tensor([3, 3]), labels=torch.tensor([2, 0]))
        assert output.clip_logits.shape == (6, 2, 1)
        assert_close(output.logits, joined(expected, how))
        assert_close(output.loss, loss(expected, [2, 0], how))


def test_multiple_choice_of_different_numbers_of_options(small_config, randomized, inputs):
    """Three questions of 2, 3 and 4 options, the first two about the first video."""
    double = randomized(ClipBertForMultipleChoice(small_config()).double())
    rows = [0, 1, 2, 2, 0, 1, 0, 2, 1]
    ids, mask, counts, options = inputs.input_ids[rows], inputs.attention_mask[rows], [5, 4], [2, 3, 4]
    clip_logits = oracle_of(double).clip_logits(inputs.pixel_values, ids, mask, counts)
    questions = [clip_logits[start : start + size, :, 0].T for start, size in ((0, 2), (2, 3), (5, 4))]
    for model, how in variants(double):
        output = model(
            inputs.pixel_values,
            ids,
            mask,
            torch.tensor(counts),
            labels=torch.tensor([1, 2, 0]),
            options_per_question=torch.tensor(options),
        )
        assert output.logits.shape == (3, 4)
        losses = []
        for number, (question, label) in enumerate(zip(questions, (1, 2, 0), strict=True)):
            assert_close(output.logits[number, : options[number]], joined(question[None], how)[0])
            assert (output.logits[number, options[number] :] == -torch.inf).all()
            losses.append(loss(question[None], [label], how))
        assert_close(output.loss, sum(losses) / 3)


def test_pretraining(small_config, randomized, inputs):
    double = randomized(ClipBertForPreTraining(small_config()).double())
    masked = {(0, 1): 7, (0, 5): 9, (2, 3): 30}
    mlm_labels = torch.full((3, 6), -100)
    for (text, position), token in masked.items():
        mlm_labels[text, position] = token
    oracle = oracle_of(double)
    states = oracle.states(inputs.pixel_values, inputs.input_ids, inputs.attention_mask, [2, 1])
    itm = torch.stack(
        [torch.stack([oracle.linear(oracle.pool(clip), "cls.seq_relationship") for clip in text]) for text in states]
    )
    mlm = {
        (text, clip, position): oracle.mlm_logits(states[text][clip][position])
        for text, position in masked
        for clip in range(2)
    }
    mlm_losses = [
        -torch.log(logits[masked[text, position]].exp() / logits.exp().sum())
        for (text, _, position), logits in mlm.items()
    ]
    for model, how in variants(double):
        output = model(**inputs.arguments(), mlm_labels=mlm_labels, itm_labels=torch.tensor([1, 0, 1]))
        assert output.mlm_logits.shape == (3, 2, 6, 40)
        for key, logits in mlm.items():
            assert_close(output.mlm_logits[key], logits)
        assert_close(output.itm_logits, itm)
        assert_close(output.mlm_loss, sum(mlm_losses) / len(mlm_losses))
        assert_close(output.itm_loss, loss(itm, [1, 0, 1], how))
        assert_close(output.loss, output.mlm_loss.double() + output.itm_loss.double())


def test_two_towers(small_config, randomized, inputs):
    model = randomized(ClipBertForRetrieval(small_config(projection_size=7)).double())
    oracle = oracle_of(model)
    video = model.get_video_features(model.encode_video(inputs.pixel_values))
    text = model.get_text_features(inputs.input_ids, inputs.attention_mask)
    for number, clips in enumerate(inputs.pixel_values):
        states = [torch.stack(oracle.encode(oracle.visual_tokens(clip))) for clip in clips]
        expected = oracle.linear(torch.cat(states).mean(dim=0), "contrast.video_projection")
        assert_close(video[number], expected / expected.norm())
    for number, length in enumerate((6, 4, 5)):
        states = oracle.encode(oracle.text_tokens(inputs.input_ids[number, :length].tolist()))
        expected = oracle.linear(torch.stack(states).mean(dim=0), "contrast.text_projection")
        assert_close(text[number], expected / expected.norm())
    scale = model.contrast.logit_scale.exp()
    assert_close(model.similarity(text, video)[2, 1], scale * (text[2] @ video[1]))


def test_gradients_equal_the_oracles(small_config, randomized, inputs):
    model = randomized(ClipBertForRetrieval(small_config()).double()).train()
    model(**inputs.arguments(), labels=torch.tensor([1, 0, 1])).loss.backward()
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name in trained:
        weights[name].requires_grad_()
    oracle = Oracle(weights, model.config)
    clip_logits = oracle.clip_logits(inputs.pixel_values, inputs.input_ids, inputs.attention_mask, [2, 1])
    loss(clip_logits, [1, 0, 1], "lse").backward()
    for name, parameter in trained.items():
        assert_close(parameter.grad, weights[name].grad)
