"""Captioning: the prefix mask against the paper written out, the cache against none, the search against brute force."""

import itertools

import pytest
import torch
from paper_oracle import Oracle

from clipbert.model import ClipBertForCaptioning, Decoding, load

START, END = 2, 3


@pytest.fixture
def model(small_config, randomized):
    return randomized(ClipBertForCaptioning(small_config()).double())


class PrefixOracle(Oracle):
    """The oracle's encoder where position i sees the first `cells` positions and those up to itself."""

    def encode_prefix(self, cells, text):
        tokens, prefix = cells + text, len(cells)
        states = tokens
        for number in range(self.config.num_hidden_layers):
            one = PrefixOracle(self.layer(number), self.single_layer)
            # A position's output depends on what it sees alone: encode that set, keep the position's own state.
            states = [one.encode(states[: max(prefix, here + 1)])[here] for here in range(len(states))]
        return states

    def layer(self, number):
        prefix = f"encoder.layer.{number}."
        return {
            name.removeprefix("clipbert.").replace(prefix, "encoder.layer.0."): value
            for name, value in self.weights.items()
            if prefix in name
        }

    @property
    def single_layer(self):
        config = type(self.config)(**self.config.to_dict())
        config.num_hidden_layers = 1
        return config


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_against_the_paper_written_out(small_config, randomized, inputs, attention):
    model = randomized(ClipBertForCaptioning._from_config(small_config(), attn_implementation=attention).double())
    labels = inputs.input_ids.masked_fill(inputs.attention_mask == 0, -100)
    output = model(**inputs.arguments(), labels=labels)
    oracle = PrefixOracle({name: value.detach() for name, value in model.state_dict().items()}, model.config)
    losses = []
    for text, owner in enumerate([0, 0, 1]):
        ids = [int(i) for i in inputs.input_ids[text, : int(inputs.attention_mask[text].sum())]]
        for clip in range(2):
            cells = oracle.visual_tokens(inputs.pixel_values[owner, clip])
            states = oracle.encode_prefix(cells, oracle.text_tokens(ids))[len(cells) :]
            expected = torch.stack([oracle.mlm_logits(state) for state in states])
            torch.testing.assert_close(output.clip_logits[text, clip, : len(ids)], expected, rtol=1e-6, atol=1e-6)
            chances = torch.exp(expected) / torch.exp(expected).sum(dim=1, keepdim=True)
            losses += [-torch.log(chances[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean(), rtol=1e-6, atol=1e-6)


def test_a_later_token_changes_nothing_before_it(model, inputs):
    before = model(**inputs.arguments()).logits
    inputs.input_ids[0, 4] = (inputs.input_ids[0, 4] + 1) % 40
    after = model(**inputs.arguments()).logits
    torch.testing.assert_close(after[0, :4], before[0, :4], rtol=0, atol=1e-12)
    assert not torch.allclose(after[0, 4:], before[0, 4:])


def test_the_text_changes_no_visual_state(model, inputs):
    visual = model.encode_video(inputs.pixel_values)[:, 0]
    texts = model.clipbert.embeddings(input_ids=inputs.input_ids[:2])
    seen = torch.ones(2, visual.shape[1] + texts.shape[1], dtype=torch.long)
    with_texts = [model.encode_prefix(visual, some, seen)[:, : visual.shape[1]] for some in (texts, texts.flip(0))]
    torch.testing.assert_close(with_texts[0], with_texts[1], rtol=0, atol=1e-12)


def test_the_cache_gives_the_logits_of_the_whole_text(model, inputs):
    visual = model.encode_video(inputs.pixel_values)
    ids = inputs.input_ids[[0, 2]][:, :5]
    whole = model(visual_embeds=visual, input_ids=ids).logits
    cache = model.prefill(visual)
    steps = [model.next_token_log_probs(ids[:, i], i, cache, clips=2) for i in range(5)]
    torch.testing.assert_close(torch.stack(steps, dim=1), whole, rtol=1e-9, atol=1e-9)


def greedy(model, visual, steps, allowed):
    """Argmax of the whole forward pass, again for each token."""
    ids = torch.full((len(visual), 1), START)
    for _ in range(steps):
        logits = model(visual_embeds=visual, input_ids=ids).logits[:, -1]
        ids = torch.cat([ids, allowed(logits).argmax(dim=1, keepdim=True)], dim=1)
    return ids[:, 1:]


def test_one_beam_is_greedy_search(model, inputs):
    visual = model.encode_video(inputs.pixel_values)

    def allowed(logits):
        return logits.index_fill(1, torch.tensor([0, START]), float("-inf"))

    expected = greedy(model, visual, 8, allowed)
    found, scores = model.generate(inputs.pixel_values, start=START, end=39, decoding=Decoding(max_length=8))
    for video, (row, wanted) in enumerate(zip(found.tolist(), expected.tolist(), strict=True)):
        wanted = wanted[: wanted.index(39) + 1] if 39 in wanted else wanted
        assert row[: len(wanted)] == wanted
        assert set(row[len(wanted) :]) <= {0}
        assert float(scores[video]) == pytest.approx(log_probability(model, visual[video : video + 1], wanted))


def log_probability(model, visual, tokens):
    ids = torch.tensor([[START, *tokens]])
    logits = model(visual_embeds=visual, input_ids=ids).logits[0].detach()
    return float(sum(logits[i, token] for i, token in enumerate(tokens)))


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_as_many_as_texts_find_the_best_of_all(small_config, randomized, inputs, penalty):
    model = randomized(ClipBertForCaptioning(small_config(vocab_size=6)).double())
    visual = model.encode_video(inputs.pixel_values)
    words = [1, 4, 5]
    texts = [[*body, END] for n in range(3) for body in itertools.product(words, repeat=n)]
    texts += [list(body) for body in itertools.product(words, repeat=3)]
    found, scores = model.generate(
        visual_embeds=visual, start=START, end=END, decoding=Decoding(64, max_length=3, length_penalty=penalty)
    )
    one, one_scores = model.generate(
        visual_embeds=visual, start=START, end=END, decoding=Decoding(1, max_length=3, length_penalty=penalty)
    )
    for video in range(2):
        ranked = {tuple(t): log_probability(model, visual[video : video + 1], t) for t in texts}
        best = max(ranked, key=lambda text: ranked[text] / len(text) ** penalty)
        assert tuple(found[video].tolist()[: len(best)]) == best
        assert float(scores[video]) == pytest.approx(ranked[best])
        greedy_text = [token for token in one[video].tolist() if token != 0]
        assert float(scores[video]) / len(best) ** penalty >= float(one_scores[video]) / len(greedy_text) ** penalty


def test_no_ngram_comes_twice_and_the_search_stops_at_the_end(model, inputs):
    with torch.no_grad():
        model.cls.predictions.bias[7] += 50
        model.cls.predictions.bias[8] += 45
    free, _ = model.generate(inputs.pixel_values, start=START, end=END, decoding=Decoding(max_length=10))
    assert set(free.flatten().tolist()) == {7}
    once, _ = model.generate(
        inputs.pixel_values, start=START, end=END, decoding=Decoding(2, max_length=10, no_repeat_ngram=2)
    )
    for row in once.tolist():
        pairs = list(itertools.pairwise(row))
        assert len(pairs) == len(set(pairs))
    ended, _ = model.generate(inputs.pixel_values, start=START, end=7, decoding=Decoding(2, max_length=10))
    assert ended[:, 0].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoding": Decoding(max_length=17)}, "max_length is 17: expected at most 16"),
        ({"end": 40, "decoding": Decoding(max_length=8)}, "end is 40: expected a token from 0 to 39"),
        ({"visual_embeds": torch.zeros(1, 1, 1, 24)}, "exactly one of them"),
    ],
)
def test_what_cannot_be_generated_is_said(model, inputs, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.generate(inputs.pixel_values, **({"start": START, "end": END} | arguments))


@pytest.mark.parametrize("field", ["beams", "max_length", "length_penalty", "no_repeat_ngram"])
def test_decoding_is_checked(field):
    with pytest.raises(ValueError, match=f"{field} is -1: expected"):
        Decoding(**{field: -1})


def test_gradients_reach_the_pixels_and_the_words(small_config, inputs):
    model = ClipBertForCaptioning(small_config()).train()
    model(**inputs.arguments(), labels=inputs.input_ids).loss.backward()
    first = model.clipbert.vision.backbone.embedder.embedder.convolution.weight
    assert first.grad.abs().sum() > 0
    assert model.cls.predictions.decoder.weight is model.clipbert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.weight.grad.abs().sum() > 0


def test_a_saved_model_comes_back(small_config, inputs, tmp_path):
    model = ClipBertForCaptioning(small_config(projection_size=8)).eval()
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, ClipBertForCaptioning)
    torch.testing.assert_close(again(**inputs.arguments()).logits, model(**inputs.arguments()).logits)
