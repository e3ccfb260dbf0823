"""A batch in parts and activations computed again: the loss and the gradients of every task stay as they are."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from clipbert.config.tasks import (
    CaptioningParams,
    ImageQAParams,
    MultipleChoiceParams,
    OpenQAParams,
    PretrainParams,
    RetrievalParams,
)
from clipbert.model import (
    ClipBertConfig,
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
)
from clipbert.model.activation_checkpointing import run_in_microbatches, set_activation_checkpointing, set_microbatches
from clipbert.tasks.batch import Batch
from clipbert.tasks.captioning import Captioning
from clipbert.tasks.image_qa import ImageQA
from clipbert.tasks.multiple_choice import MultipleChoice
from clipbert.tasks.open_qa import OpenQA
from clipbert.tasks.pretrain import Pretrain
from clipbert.tasks.retrieval import Retrieval

VIDEOS = 3


def batch(**fields) -> Batch:
    random = torch.Generator().manual_seed(7)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    ids = torch.randint(5, 40, (VIDEOS, 6), generator=random) * mask
    standard = {
        "pixel_values": torch.randint(0, 256, (VIDEOS, 2, 2, 3, 64, 96), generator=random, dtype=torch.uint8),
        "input_ids": ids,
        "attention_mask": mask,
        "texts_per_video": torch.ones(VIDEOS, dtype=torch.long),
        "labels": torch.tensor([1, 0, 1]),
        "ids": ["a", "b", "c"],
        "texts_per_item": torch.ones(VIDEOS, dtype=torch.long),
        "caption_ids": ids.flip(0),
        "caption_mask": mask.flip(0),
        "media_keys": torch.arange(VIDEOS),
        "draws": torch.rand(VIDEOS, 2, generator=random, dtype=torch.float64),
    }
    return Batch(**(standard | fields))


def options() -> dict:
    """Two options a video."""
    rows = torch.arange(VIDEOS).repeat_interleave(2)
    some = batch()
    return {
        "input_ids": some.input_ids[rows],
        "attention_mask": some.attention_mask[rows],
        "texts_per_video": torch.full((VIDEOS,), 2),
        "texts_per_item": torch.full((VIDEOS,), 2),
    }


SCORES = torch.rand(VIDEOS, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MASKED = torch.where(torch.arange(6) == 2, 9, -100).expand(VIDEOS, 6)
TASKS = {
    "retrieval": (Retrieval(RetrievalParams(negatives=2)), ClipBertForRetrieval, {}, {}),
    "open_qa": (OpenQA(OpenQAParams()), ClipBertForOpenQA, {}, {}),
    "image_qa": (ImageQA(ImageQAParams()), ClipBertForOpenQA, {"labels": SCORES}, {"answer_loss": "bce"}),
    "multiple_choice": (MultipleChoice(MultipleChoiceParams()), ClipBertForMultipleChoice, options(), {}),
    "captioning": (Captioning(CaptioningParams(contrastive_weight=1.0)), ClipBertForCaptioning, {}, {}),
    "pretrain": (Pretrain(PretrainParams()), ClipBertForPreTraining, {"mlm_labels": MASKED}, {}),
}


def loss_and_gradients(model, task, some):
    model.zero_grad()
    torch.manual_seed(0)
    loss, _ = task.objective.loss(model, some)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_in_parts_and_recomputed(task, small_config, randomized):
    doing, kind, fields, config = TASKS[task]
    model = randomized(kind(small_config(projection_size=7, pixel_random_sampling_size=3, **config)).double()).train()
    some = batch(**fields)
    expected = loss_and_gradients(model, doing, some)
    for parts in (2, 100):
        assert set_microbatches(model, parts) is None
        assert_same(loss_and_gradients(model, doing, some), expected)
    set_microbatches(model, 1)
    assert set_activation_checkpointing(model, True) is None
    assert_same(loss_and_gradients(model, doing, some), expected)
    set_microbatches(model, 2)
    assert_same(loss_and_gradients(model, doing, some), expected)
    set_activation_checkpointing(model, False)
    set_microbatches(model, 1)
    assert_same(loss_and_gradients(model, doing, some), expected)


def test_live_batch_norms_see_each_batch_whole_and_once():
    torch.manual_seed(0)
    plain = ClipBertForRetrieval(ClipBertConfig.tiny(vocab_size=40)).double().train()
    ours = copy.deepcopy(plain)
    assert "statistics of the whole batch" in set_microbatches(ours, 2)
    assert "batch norms learn" in set_activation_checkpointing(ours, True)
    task, some = TASKS["retrieval"][0], batch()
    assert_same(loss_and_gradients(ours, task, some), loss_and_gradients(plain, task, some))
    statistics = dict(plain.named_buffers())
    for name, value in ours.named_buffers():
        assert torch.equal(value, statistics[name]), name


@pytest.mark.parametrize(("way", "share"), [("parts", 0.5), ("recomputed", 0.75)])
def test_fewer_activations_are_kept(way, share, small_config):
    model = ClipBertForRetrieval(small_config(num_hidden_layers=6)).train()
    some, kept = batch(), []
    for reduced in (False, True):
        if reduced and way == "parts":
            set_microbatches(model, 3)
        elif reduced:
            set_activation_checkpointing(model, True)
        sizes: dict[int, int] = {}

        def pack(value, sizes=sizes):
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            loss = model(some.pixel_values, some.input_ids, some.attention_mask, labels=some.labels).loss
        kept.append(sum(size for key, size in sizes.items() if key not in weights))
        loss.backward()
    assert kept[1] < share * kept[0]


def test_parts_only_while_gradients_are_wanted(small_config):
    model = ClipBertForRetrieval(small_config()).eval()
    set_microbatches(model, 3)
    calls = []
    model.clipbert.encoder.register_forward_hook(lambda *_: calls.append(1))
    some = batch()
    with torch.no_grad():
        model(some.pixel_values, some.input_ids, some.attention_mask)
    assert len(calls) == 1


def test_in_parts_cuts_what_has_a_row_each():
    seen = []

    def function(rows, mask, shared):
        seen.append((len(rows), len(mask), len(shared)))
        return rows * mask[:, None]

    rows = torch.ones(5, 2, requires_grad=True)
    found = run_in_microbatches(function, 3, rows, torch.arange(5.0), torch.zeros(1, 7))
    assert seen == [(2, 2, 1), (2, 2, 1), (1, 1, 1)]
    assert torch.equal(found, rows * torch.arange(5.0)[:, None])


def test_less_than_one_part_is_refused(small_config):
    with pytest.raises(ValueError, match="parts is 0: expected 1 or more"):
        set_microbatches(ClipBertForRetrieval(small_config()), 0)


class Losses(torch.nn.Module):
    """As training wraps a model: a batch to its loss."""

    def __init__(self, model, task):
        super().__init__()
        self.model, self.task = model, task

    def forward(self, some):
        return self.task.objective.loss(self.model, some)[0]


@pytest.mark.parametrize("task", ["retrieval", "pretrain"])
def test_within_distributed_data_parallel(task, small_config, randomized, tmp_path):
    doing, kind, fields, config = TASKS[task]
    model = randomized(kind(small_config(projection_size=7, **config)).double()).train()
    some = batch(**fields)
    expected = loss_and_gradients(model, doing, some)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        losses = DistributedDataParallel(Losses(model, doing), static_graph=True)
        set_microbatches(losses, 2)
        set_activation_checkpointing(losses, True)
        for _ in range(3):
            model.zero_grad()
            torch.manual_seed(0)
            loss = losses(some)
            loss.backward()
            found = loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            assert_same(found, expected)
    finally:
        dist.destroy_process_group()


def test_under_autocast(small_config):
    torch.manual_seed(0)
    model = ClipBertForRetrieval(small_config()).train()
    some, gradients = batch(), []
    for parts, checkpointing in ((1, False), (3, False), (1, True), (3, True)):
        set_microbatches(model, parts)
        set_activation_checkpointing(model, checkpointing)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(some.pixel_values, some.input_ids, some.attention_mask, labels=some.labels).loss
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() < 0.02 * gradients[0].norm()
