"""Label smoothing in the losses and in every head that has one."""

import pytest
import torch
from torch.nn import functional

from clipbert.model import (
    ClipBertConfig,
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
)
from clipbert.model.losses import cross_entropy, negative_log_likelihood, symmetric_contrastive_loss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 5, generator=GENERATOR)
LABELS = torch.tensor([0, 4, -100, 2, 2, -100])
PIXELS = torch.randint(0, 256, (2, 2, 1, 3, 64, 64), dtype=torch.uint8, generator=GENERATOR)
TEXTS = torch.randint(5, 60, (2, 6), generator=GENERATOR)


def config(**fields: object) -> ClipBertConfig:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64, "image_size": 64}
    return ClipBertConfig.tiny(**small | fields)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_it_is_the_fields_definition_and_leaves_ignored_labels_out(smoothing: float) -> None:
    expected = functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, ignore_index=-100)
    torch.testing.assert_close(cross_entropy(LOGITS, LABELS, smoothing), expected)
    torch.testing.assert_close(negative_log_likelihood(LOGITS.log_softmax(1), LABELS, smoothing), expected)


def test_without_it_the_loss_is_that_of_earlier_trainings_to_the_bit() -> None:
    earlier = functional.cross_entropy(LOGITS, LABELS, ignore_index=-100, reduction="sum") / 4
    assert torch.equal(cross_entropy(LOGITS, LABELS), earlier)


def test_nothing_goes_to_options_that_a_question_lacks() -> None:
    logits = LOGITS[:2].clone().requires_grad_()
    padded = functional.pad(logits, (0, 2), value=float("-inf"))
    loss = cross_entropy(padded, LABELS[:2], 0.1)
    torch.testing.assert_close(loss, cross_entropy(logits, LABELS[:2], 0.1))
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_where_all_labels_are_ignored_the_loss_is_zero_with_a_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    cross_entropy(logits, torch.full((6,), -100), 0.1).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_every_head_of_classes_has_it_and_the_others_have_not() -> None:
    def losses(model: torch.nn.Module, **labels: torch.Tensor) -> tuple[float, float]:
        model.eval()
        seen = []
        for smoothing in (0.0, 0.5):
            model.label_smoothing = smoothing  # type: ignore[assignment]
            out = model(pixel_values=PIXELS, input_ids=TEXTS, texts_per_video=torch.tensor([1, 1]), **labels)
            seen.append(out.loss.item())
        return seen[0], seen[1]

    torch.manual_seed(0)
    one = torch.tensor([1, 0])
    masked = TEXTS.clone()
    masked[:, 2:] = -100
    plain, smoothed = losses(ClipBertForRetrieval(config()), labels=one)
    assert smoothed != plain
    plain, smoothed = losses(ClipBertForOpenQA(config(answers=["a", "b", "c"])), labels=one)
    assert smoothed != plain
    plain, smoothed = losses(ClipBertForCaptioning(config()), labels=TEXTS)
    assert smoothed != plain
    pretraining = ClipBertForPreTraining(config())
    for labels in ({"mlm_labels": masked}, {"itm_labels": one}):
        plain, smoothed = losses(pretraining, **labels)
        assert smoothed != plain
    scores = torch.tensor([[1.0, 0.3], [0.0, 0.6]])
    plain, smoothed = losses(ClipBertForOpenQA(config(answers=["a", "b"], answer_loss="bce")), labels=scores)
    assert smoothed == plain


def test_captioning_smooths_the_mean_of_the_clips_log_probabilities() -> None:
    torch.manual_seed(0)
    model = ClipBertForCaptioning(config()).eval()
    model.label_smoothing = 0.2
    out = model(pixel_values=PIXELS, input_ids=TEXTS, labels=TEXTS)
    told = out.logits[:, :-1]
    own = told.gather(2, TEXTS[:, 1:, None])[..., 0]
    torch.testing.assert_close(out.loss, -(0.8 * own + 0.2 * told.mean(dim=2)).mean())


def test_multiple_choice_smooths_over_each_questions_own_options() -> None:
    torch.manual_seed(0)
    model = ClipBertForMultipleChoice(config()).eval()
    model.label_smoothing = 0.2
    texts = torch.randint(5, 60, (5, 6), generator=torch.Generator().manual_seed(1))
    out = model(
        pixel_values=PIXELS,
        input_ids=texts,
        texts_per_video=torch.tensor([2, 3]),
        options_per_question=torch.tensor([2, 3]),
        labels=torch.tensor([1, 0]),
    )
    first, second = out.logits[0, :2].log_softmax(0), out.logits[1].log_softmax(0)
    expected = -(0.8 * (first[1] + second[0]) + 0.2 * (first.mean() + second.mean())) / 2
    torch.testing.assert_close(out.loss, expected)


def test_it_is_no_part_of_what_is_saved() -> None:
    model = ClipBertForOpenQA(config(answers=["a", "b"]))
    model.label_smoothing = 0.1
    assert "label_smoothing" not in model.config.to_dict()
    assert not any("label_smoothing" in name for name in model.state_dict())


def test_the_contrastive_loss_is_smoothed_over_the_classes_that_count() -> None:
    generator = torch.Generator().manual_seed(0)
    similarity, truth = torch.randn(4, 4, generator=generator), torch.arange(4)
    smoothed = symmetric_contrastive_loss(similarity, None, 0.1)
    both = [functional.cross_entropy(logits, truth, label_smoothing=0.1) for logits in (similarity, similarity.T)]
    assert torch.isclose(smoothed, torch.stack(both).mean())
    # a video that occurs twice is not a negative of itself, and gets no share
    videos = torch.tensor([5, 6, 7, 5])
    twice = symmetric_contrastive_loss(similarity, videos[:, None] == videos[None, :], 0.1)
    kept = similarity.clone()
    kept[0, 3] = kept[3, 0] = -1e4
    shares = torch.full((4, 4), 0.1 / 4)
    shares[0], shares[3] = 0.1 / 3, 0.1 / 3
    shares[0, 3] = shares[3, 0] = 0
    shares += 0.9 * torch.eye(4)
    expected = [-(shares * logits.log_softmax(dim=1)).sum(dim=1).mean() for logits in (kept, kept.T)]
    assert torch.isclose(twice, torch.stack(expected).mean())
    assert torch.equal(symmetric_contrastive_loss(similarity, None, 0.0), symmetric_contrastive_loss(similarity))
