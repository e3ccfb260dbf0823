"""Gradient caching: the contrastive loss of the whole batch, with the memory of a part of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import clipbert.model.activation_checkpointing as caching
from clipbert.config.tasks import RetrievalParams
from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.model.activation_checkpointing import run_slices, set_microbatches
from clipbert.tasks.batch import Batch
from clipbert.tasks.retrieval import Retrieval

CHANNELS = 24


def batch(videos: int, maps: bool = True) -> Batch:
    """Videos of two clips from a feature cache, of maps or their means, each with a text of 3 to 9 tokens."""
    random = torch.Generator().manual_seed(videos)
    lengths = torch.randint(3, 10, (videos, 1), generator=random)
    mask = (torch.arange(9) < lengths).long()
    features = torch.rand(videos, 2, 1, CHANNELS, 4, 4, generator=random, dtype=torch.float64)
    return Batch(
        pixel_values=None,
        frame_features=features if maps else features.mean(dim=(-2, -1)),
        input_ids=torch.randint(5, 40, mask.shape, generator=random) * mask,
        attention_mask=mask,
        texts_per_video=torch.ones(videos, dtype=torch.long),
        labels=torch.ones(videos, dtype=torch.long),
        ids=[str(video) for video in range(videos)],
        texts_per_item=torch.ones(videos, dtype=torch.long),
        media_keys=torch.arange(videos),
        draws=torch.rand(videos, 2, generator=random, dtype=torch.float64),
    )


@pytest.fixture
def retrieval(small_config: Callable[..., ClipBertConfig], randomized: Callable[[Any], Any]) -> Callable[..., Any]:
    def make(video_head: str, cross_encoder: bool, dropout: float = 0.0) -> tuple[Retrieval, ClipBertForRetrieval]:
        fields = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "video_head": video_head}
        config = small_config(projection_size=8, cross_encoder=cross_encoder, **fields)
        model = randomized(ClipBertForRetrieval(config).double()).train()
        model.clipbert.vision.freeze_backbone()
        params = RetrievalParams(video_head=video_head, cross_encoder=cross_encoder)
        return Retrieval(params), model

    return make


def loss_and_gradients(task: Retrieval, model: ClipBertForRetrieval, some: Batch, parts: int) -> dict[str, Tensor]:
    set_microbatches(model, parts)
    model.zero_grad()
    torch.manual_seed(0)
    loss, named = task.objective.loss(model, some)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **named, **gradients}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("cross_encoder", [False, True])
@pytest.mark.parametrize("video_head", ["encoder", "direct"])
def test_parts_have_the_gradients_of_the_whole_batch(video_head: str, cross_encoder: bool, retrieval) -> None:
    task, model = retrieval(video_head, cross_encoder)
    some = batch(7, maps=video_head == "encoder" or cross_encoder)
    expected = loss_and_gradients(task, model, some, parts=1)
    assert "contrastive" in expected
    for parts in (2, 3, 7):
        assert_equal(loss_and_gradients(task, model, some, parts), expected)


@pytest.mark.parametrize("video_head", ["encoder", "direct"])
def test_backward_draws_the_dropout_of_forward_again(
    video_head: str, retrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of the loss that forward computed: that of one graph which keeps every activation of each part."""
    task, model = retrieval(video_head, True, dropout=0.3)
    some = batch(6)
    found = loss_and_gradients(task, model, some, parts=3)
    with monkeypatch.context() as patch:
        patch.setattr(caching, "checkpoint_activations", lambda function, *given: function(*given))
        assert_equal(found, loss_and_gradients(task, model, some, parts=3))
    with monkeypatch.context() as patch:

        def without_replay(function: Callable[..., Any], *given: Any) -> Any:
            return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)

        patch.setattr(caching, "checkpoint_activations", without_replay)
        wrong = loss_and_gradients(task, model, some, parts=3)
    name = "clipbert.embeddings.word_embeddings.weight"
    assert not torch.allclose(wrong[name], found[name], rtol=1e-3)


def kept_bytes(task: Retrieval, model: ClipBertForRetrieval, some: Batch, parts: int) -> int:
    """Return the bytes that a step keeps for its backward pass, without the weights and the batch."""
    set_microbatches(model, parts)
    sizes: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    given = [value for value in vars(some).values() if isinstance(value, Tensor)]
    others = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *given]}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss, _ = task.objective.loss(model, some)
    found = sum(size for key, size in sizes.items() if key not in others)
    loss.backward()
    return found


def test_the_memory_of_a_large_batch_is_hardly_more_than_that_of_a_part(retrieval) -> None:
    task, model = retrieval("direct", False)
    part = kept_bytes(task, model, batch(8, maps=False), parts=1)
    whole = kept_bytes(task, model, batch(64, maps=False), parts=1)
    in_parts = kept_bytes(task, model, batch(64, maps=False), parts=8)
    assert whole > 6 * part
    assert in_parts < 0.5 * part


def test_negatives_are_those_of_the_whole_batch(retrieval) -> None:
    task, model = retrieval("direct", False)
    some = batch(8, maps=False)
    whole = loss_and_gradients(task, model, some, parts=4)["contrastive"]
    cut = loss_and_gradients(task, model, batch(2, maps=False), parts=1)["contrastive"]
    assert whole > cut  # a text competes with 7 videos, not with one


def test_slices_cover_all_rows_once() -> None:
    rows, seen = torch.arange(10.0, requires_grad=True), []

    def function(part: slice) -> Tensor:
        seen.append((part.start, part.stop))
        return 2 * rows[part]

    assert torch.equal(run_slices(function, 10, 4), 2 * rows)
    assert seen == [(0, 3), (3, 6), (6, 9), (9, 10)]
    with torch.no_grad():
        run_slices(function, 10, 4)
    assert seen[4:] == [(0, 10)]
