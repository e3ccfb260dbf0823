import math

import pytest
import torch

from clipbert.model import (
    ClipBertConfig,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
)

HEADS = [ClipBertForRetrieval, ClipBertForOpenQA, ClipBertForPreTraining]


@pytest.mark.parametrize("head", HEADS)
def test_encoding_the_video_first_gives_the_same(small_config, randomized, inputs, head):
    model = randomized(head(small_config()))
    rest = {name: value for name, value in inputs.arguments().items() if name != "pixel_values"}
    direct = model(**inputs.arguments())
    first = model(visual_embeds=model.encode_video(inputs.pixel_values), **rest)
    for name in direct:
        assert torch.equal(direct[name], first[name])


def test_encoding_the_choices_video_first_gives_the_same(small_config, randomized, inputs):
    model = randomized(ClipBertForMultipleChoice(small_config()))
    ids, mask = inputs.input_ids[[0, 1, 2, 0]], inputs.attention_mask[[0, 1, 2, 0]]
    counts = torch.tensor([2, 2])
    visual = model.encode_video(inputs.pixel_values)
    direct = model(inputs.pixel_values, ids, mask, counts).logits
    assert torch.equal(direct, model(None, ids, mask, counts, visual).logits)


def test_videos_and_texts_do_not_mix(small_config, randomized, inputs):
    model = randomized(ClipBertForRetrieval(small_config()))
    together = model(**inputs.arguments()).logits
    for text, video in ((0, 0), (1, 0), (2, 1)):
        alone = model(
            inputs.pixel_values[[video]], inputs.input_ids[[text]], inputs.attention_mask[[text]], torch.tensor([1])
        )
        torch.testing.assert_close(alone.logits[0], together[text], rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing(small_config, randomized, inputs):
    model = randomized(ClipBertForRetrieval(small_config(projection_size=8)))
    ids = torch.cat([inputs.input_ids, torch.full((3, 8), 17)], dim=1)
    mask = torch.cat([inputs.attention_mask, torch.zeros(3, 8, dtype=torch.long)], dim=1)
    short = model(**inputs.arguments()).clip_logits
    padded = model(**(inputs.arguments() | {"input_ids": ids, "attention_mask": mask})).clip_logits
    torch.testing.assert_close(padded, short, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.get_text_features(ids, mask),
        model.get_text_features(inputs.input_ids, inputs.attention_mask),
        rtol=1e-4,
        atol=1e-5,
    )


def test_one_clip_aggregates_to_itself(small_config, randomized, inputs):
    for how in ("lse", "mean", "max"):
        model = randomized(ClipBertForRetrieval(small_config(score_aggregation=how)))
        output = model(**(inputs.arguments() | {"pixel_values": inputs.pixel_values[:, :1]}))
        torch.testing.assert_close(output.logits, output.clip_logits[:, 0])


def test_match_scores_rank_as_the_probabilities_do(small_config):
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0], [-3.0, 4.0]])
    scores = ClipBertForRetrieval(small_config()).match_scores(logits)
    torch.testing.assert_close(scores.sigmoid(), logits.softmax(dim=1)[:, 1])
    ranking = ClipBertForRetrieval(small_config(retrieval_loss="ranking"))
    assert ranking.match_scores(logits[:, :1]).tolist() == [0.0, 1.0, -3.0]


def test_all_labels_ignored_is_a_loss_of_zero(small_config, inputs):
    model = ClipBertForOpenQA(small_config())
    loss = model(**inputs.arguments(), labels=torch.full((3,), -100)).loss
    loss.backward()
    assert loss.item() == 0.0


def test_temperature_starts_at_0_07_and_stops_at_100(small_config):
    model = ClipBertForRetrieval(small_config(projection_size=8))
    assert model.contrast.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    vector = torch.nn.functional.normalize(torch.ones(1, 8), dim=1)
    assert model.similarity(vector, vector).item() == pytest.approx(1 / 0.07, rel=1e-5)
    model.contrast.logit_scale.data.fill_(50.0)
    assert model.similarity(vector, vector).item() == pytest.approx(100.0, rel=1e-5)


def test_no_projection_no_weights(small_config):
    assert not any("contrast" in name for name in ClipBertForRetrieval(small_config()).state_dict())


def test_pretraining_samples_cells_only_while_training(small_config, inputs):
    model = ClipBertForPreTraining(small_config(pixel_random_sampling_size=4))
    everything = model.eval().encode_video(inputs.pixel_values)
    assert everything.shape == (2, 2, 6, 24)
    torch.manual_seed(0)
    kept = model.train().encode_video(inputs.pixel_values)
    assert kept.shape == (2, 2, 4, 24)
    where = [(everything[0, 0] - cell).abs().sum(dim=1).argmin().item() for cell in kept[0, 0]]
    assert where == sorted(set(where))
    torch.testing.assert_close(kept, everything[:, :, where])
    draws = {tuple(model.encode_video(inputs.pixel_values)[0, 0, :, 0].tolist()) for _ in range(8)}
    assert len(draws) > 1
    assert ClipBertForRetrieval(small_config()).train().encode_video(inputs.pixel_values).shape[2] == 6


def test_word_embeddings_are_tied_to_the_mlm_head(small_config):
    model = ClipBertForPreTraining(small_config())
    assert model.cls.predictions.decoder.weight is model.clipbert.embeddings.word_embeddings.weight
    assert model.get_input_embeddings() is model.clipbert.embeddings.word_embeddings


def test_gradient_checkpointing_gives_the_same_gradients(small_config, inputs):
    torch.manual_seed(0)
    gradients = []
    model = ClipBertForRetrieval(small_config()).train()
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**inputs.arguments(), labels=torch.tensor([1, 0, 1])).loss.backward()
        gradients.append(model.clipbert.encoder.layer[0].intermediate.dense.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_fresh_weights_are_sane():
    torch.manual_seed(0)
    model = ClipBertForRetrieval(ClipBertConfig.tiny(initializer_range=0.02))
    assert model.clipbert.encoder.layer[0].attention.self.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    convolution = model.clipbert.vision.projection.weight
    assert convolution.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.05)
    assert model.clipbert.embeddings.word_embeddings.weight[0].abs().sum() == 0


def test_outputs_as_tuples(small_config, inputs):
    model = ClipBertForRetrieval(small_config()).eval()
    labels = torch.tensor([1, 0, 1])
    output = model(**inputs.arguments(), labels=labels)
    given = model(**inputs.arguments(), labels=labels, return_dict=False)
    assert isinstance(given, tuple)
    for found, expected in zip(given, output.values(), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(TypeError, match="text_per_video"):  # an unknown argument is never ignored
        model(**inputs.arguments(), text_per_video=labels)
