"""A training step on the GPU: the step the CPU makes, no wait for the device, parts of a batch in less memory."""

import gc
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from clipbert.config.tasks import RetrievalParams
from clipbert.config.training import TrainParams
from clipbert.distributed.context import DistributedContext
from clipbert.model import ClipBertConfig, ClipBertForOpenQA, ClipBertForRetrieval
from clipbert.model.activation_checkpointing import set_microbatches
from clipbert.tasks.batch import Batch
from clipbert.tasks.retrieval import Retrieval
from clipbert.training.checkpoint import rng_states
from clipbert.training.optim import make_optimizer
from clipbert.training.precision import Precision
from clipbert.training.step import TrainStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]


def batch(videos: int = 4, size: int = 96) -> Batch:
    """Every other text is shorter; their lengths are known on the host, so that rows are packed."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(videos, 16, dtype=torch.long)
    mask[1::2, 9:] = 0
    some = Batch(
        pixel_values=torch.randint(0, 256, (videos, 2, 2, 3, size, size), dtype=torch.uint8, generator=generator),
        input_ids=torch.randint(5, 100, (videos, 16), generator=generator) * mask,
        attention_mask=mask,
        texts_per_video=torch.ones(videos, dtype=torch.long),
        labels=torch.ones(videos, dtype=torch.long),
        ids=[str(i) for i in range(videos)],
        texts_per_item=torch.ones(videos, dtype=torch.long),
        media=tuple(str(i) for i in range(videos)),
        draws=torch.rand(videos, 3, generator=generator, dtype=torch.float64),
    ).with_lengths()
    return some.with_lengths()


def losses(device: str, precision: str) -> list[float]:
    torch.manual_seed(0)
    config = ClipBertConfig.tiny(vocab_size=128, hidden_dropout_prob=0.0, projection_size=64)
    model = ClipBertForRetrieval(config).to(device).train()
    optimizer = make_optimizer(model, TrainParams(lr=1e-3))
    chosen = Precision.choose(precision, torch.device(device), config)
    # Every other text is a negative, so nothing is left to chance and both devices see the same pairs.
    task, some = Retrieval(RetrievalParams(negatives=3)), batch().to(torch.device(device))
    seen = []
    for _ in range(3):
        with chosen.autocast():
            loss, _ = task.objective.loss(model, some)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def test_fp32_steps_agree_with_the_cpu() -> None:
    assert losses("cuda", "fp32") == pytest.approx(losses("cpu", "fp32"), rel=2e-2)


def test_bf16_trains_with_fp32_weights() -> None:
    assert losses("cuda", "bf16") == pytest.approx(losses("cpu", "fp32"), rel=0.1)


def test_the_paper_size_fits_and_reaches_every_part() -> None:
    config = ClipBertConfig.base(answers=["a", "b"], clips=2)
    model = ClipBertForOpenQA(config).cuda().train()
    pixels = torch.randint(0, 256, (1, 2, 2, 3, 448, 448), dtype=torch.uint8, device="cuda")
    with Precision.choose("bf16", torch.device("cuda"), config).autocast():
        out = model(
            pixel_values=pixels,
            input_ids=torch.randint(5, 100, (1, 16), device="cuda"),
            labels=torch.tensor([1], device="cuda"),
        )
    out.loss.backward()
    first = next(p for name, p in model.named_parameters() if "vision" in name and p.ndim == 4)
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


class RepeatedBatch:
    """Batch iterator that returns the same batch again and again."""

    def __init__(self, some: Batch) -> None:
        self.some, self.batches = some, self
        self.position = 0

    def __next__(self) -> Batch:
        return self.some

    def start_at(self, position: int) -> None:
        """The same place."""


def train_step(precision: str, **train: object) -> TrainStep:
    torch.manual_seed(0)
    config = ClipBertConfig.tiny(vocab_size=128, hidden_dropout_prob=0.0, projection_size=64)
    params = TrainParams.model_validate({"precision": precision, **train})
    task = Retrieval(RetrievalParams(negatives=3))
    return TrainStep(task, ClipBertForRetrieval(config), params, torch.device("cuda"), DistributedContext())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_waits_for_nothing(precision: str) -> None:
    step = train_step(precision)
    batches = RepeatedBatch(batch().to(torch.device("cuda")))
    step.run(batches, 1, rng_states())  # type: ignore[arg-type]
    rng = rng_states()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.run(batches, 1, rng)  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_fp16_scales_the_loss_and_leaves_an_overflow_out() -> None:
    step = train_step("fp16")
    batches = RepeatedBatch(batch().to(torch.device("cuda")))
    losses = []
    for _ in range(20):
        output = step.run(batches, 1, rng_states())  # type: ignore[arg-type]
        losses.append(output.losses["loss"].item())
        assert not bool(output.skipped)
    assert losses[-1] < losses[0]
    assert step.scaler.get_scale() > 0


def test_a_bad_step_changes_nothing() -> None:
    step = train_step("fp32")
    some = batch().to(torch.device("cuda"))
    step.run(RepeatedBatch(some), 1, rng_states())  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    broken = replace(some, pixel_values=torch.full_like(some.pixel_values, 1, dtype=torch.float32) * float("inf"))
    assert bool(step.run(RepeatedBatch(broken), 1, rng_states()).skipped)  # type: ignore[arg-type]
    for name, value in step.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_parts_of_a_batch_need_less_memory() -> None:
    peaks = []
    for parts in (1, 4):
        config = ClipBertConfig.base(vocab_size=128, answers=["a", "b"], hidden_dropout_prob=0.0)
        torch.manual_seed(0)
        model = ClipBertForOpenQA(config).cuda().train()
        set_microbatches(model, parts)
        torch.cuda.reset_peak_memory_stats()
        pixels = torch.randint(0, 256, (8, 1, 2, 3, 224, 224), dtype=torch.uint8, device="cuda")
        labels = torch.zeros(8, dtype=torch.long, device="cuda")
        ids = torch.randint(5, 100, (8, 16), device="cuda")
        start = torch.cuda.memory_allocated()
        model(pixel_values=pixels, input_ids=ids, labels=labels).loss.backward()
        peaks.append(torch.cuda.max_memory_allocated() - start)
    assert peaks[1] < 0.6 * peaks[0]


def test_out_of_memory_is_answered_by_parts_with_the_same_loss() -> None:
    """The allocator may take 70 % of what the step took whole."""
    some = batch(videos=16, size=224)

    def base_step() -> TrainStep:
        torch.manual_seed(0)
        config = ClipBertConfig.base(vocab_size=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        params = TrainParams.model_validate({"precision": "bf16"})
        task, context = Retrieval(RetrievalParams(negatives=3)), DistributedContext()
        return TrainStep(task, ClipBertForRetrieval(config), params, torch.device("cuda"), context)

    def run(step: TrainStep) -> float:
        batches = RepeatedBatch(some.to(torch.device("cuda")))
        return step.run(batches, 1, rng_states()).losses["loss"].item()  # type: ignore[arg-type]

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = base_step()
    expected = run(whole)
    peak = torch.cuda.max_memory_reserved()
    assert whole.microbatches == 1
    del whole
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.7 * peak / torch.cuda.get_device_properties(0).total_memory)
    try:
        step = base_step()
        assert run(step) == pytest.approx(expected, rel=1e-2)
        assert step.microbatches > 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="this GPU has no TF32"
)
@pytest.mark.parametrize("what", ["product", "convolution"])
def test_fp32_is_tf32_after_the_choice_of_a_precision(what: str) -> None:
    def error() -> float:
        """Relative to float64."""
        generator = torch.Generator().manual_seed(0)
        if what == "product":
            pair = [torch.randn(512, 512, generator=generator).cuda() for _ in range(2)]
            out, exact = pair[0] @ pair[1], pair[0].double() @ pair[1].double()
        else:
            maps, kernel = (
                torch.randn(*shape, generator=generator).cuda() for shape in ((8, 64, 28, 28), (64, 64, 3, 3))
            )
            out, exact = functional.conv2d(maps, kernel), functional.conv2d(maps.double(), kernel.double())
        return float((out - exact).norm() / exact.norm())

    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "ieee"
        assert error() < 1e-5
        Precision.choose("fp32", torch.device("cuda"), ClipBertConfig.tiny())
        assert 1e-5 < error() < 2e-3
    finally:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before
