"""Operation counts against a formula, and the rates of the throughput monitor."""

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from clipbert.model import ClipBertConfig, ClipBertForOpenQA
from clipbert.model.activation_checkpointing import set_activation_checkpointing, set_microbatches
from clipbert.tasks.batch import Batch
from clipbert.training import peak_rates
from clipbert.training.energy import Energy
from clipbert.training.flops import FlopCounts
from clipbert.training.monitor import ThroughputMonitor

CPU = torch.device("cpu")
TEXTS, CLIPS, LENGTH, SIZE = 2, 2, 16, 64


def model_and_batch(attention: str = "sdpa") -> tuple[ClipBertForOpenQA, Batch]:
    config = ClipBertConfig.tiny(answers=["a", "b"], vocab_size=50)
    model = ClipBertForOpenQA._from_config(config, attn_implementation=attention).train()
    batch = Batch(
        pixel_values=torch.zeros(TEXTS, CLIPS, 1, 3, SIZE, SIZE, dtype=torch.uint8),
        input_ids=torch.ones(TEXTS, LENGTH, dtype=torch.long),
        attention_mask=torch.ones(TEXTS, LENGTH, dtype=torch.long),
        texts_per_video=torch.ones(TEXTS, dtype=torch.long),
        labels=torch.ones(TEXTS, dtype=torch.long),
        ids=["a", "b"],
        texts_per_item=torch.ones(TEXTS, dtype=torch.long),
    )
    return model, batch


def step(model: ClipBertForOpenQA, batch: Batch) -> None:
    model(batch.pixel_values, batch.input_ids, batch.attention_mask, labels=batch.labels).loss.backward()


def formula(model: ClipBertForOpenQA) -> float:
    """Multiplications and additions: convolutions by their outputs, the encoder by its rows; backward is twice that,
    but for the gradient that the pixels do not need. The last layer has keys and values of all tokens, and all else of
    [CLS] alone."""
    outputs = {}
    hooks = [
        module.register_forward_hook(lambda module, _, out: outputs.update({module: out.shape}))
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    model.encode_video(torch.zeros(TEXTS, CLIPS, 1, 3, SIZE, SIZE, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    convolutions = [2 * module.weight[0].numel() * shape.numel() for module, shape in outputs.items()]
    projection = model.clipbert.vision.projection
    convolutions.append(2 * projection.weight.numel() * TEXTS * CLIPS * (SIZE // 16) ** 2)
    config, rows = model.config, TEXTS * CLIPS
    length = LENGTH + (SIZE // 32) ** 2
    hidden, inner = config.hidden_size, config.intermediate_size
    layer = 2 * length * (4 * hidden**2 + 2 * hidden * inner) + 4 * length**2 * hidden
    last = 2 * length * 2 * hidden**2 + 2 * (2 * hidden**2 + 2 * hidden * inner) + 4 * length * hidden
    heads = 2 * hidden**2 + 2 * 2 * hidden**2 + 2 * 2 * hidden * 2
    return 3 * (sum(convolutions) + rows * ((config.num_hidden_layers - 1) * layer + last + heads)) - convolutions[0]


def test_counts_are_those_of_the_formula() -> None:
    model, batch = model_and_batch("eager")
    counts = FlopCounts()
    with counts.step(batch):
        step(model, batch)
    assert counts.last == pytest.approx(formula(model), rel=0.01)


@pytest.mark.parametrize("parts", [1, 2])
def test_counting_holds_nothing_that_backward_computed_again(parts: int) -> None:
    model, batch = model_and_batch()
    set_activation_checkpointing(model, True)
    set_microbatches(model, parts)
    with FlopCounts().step(batch), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(model, batch)
        model.zero_grad(set_to_none=True)
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert sum(changes) < 0.01 * sum(change for change in changes if change > 0)


def test_fused_attention_counts_too() -> None:
    found = []
    for attention in ("eager", "sdpa"):
        model, batch = model_and_batch(attention)
        counts = FlopCounts()
        with counts.step(batch):
            step(model, batch)
        found.append(counts.last)
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_a_shape_is_counted_once() -> None:
    model, batch = model_and_batch()
    counts = FlopCounts()
    with counts.step(batch):
        step(model, batch)
    first = counts.last
    with counts.step(batch):
        pass
    assert counts.last == first > 0


def test_read_tells_of_the_steps_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("clipbert.training.monitor.time", SimpleNamespace(monotonic=lambda: now))
    model, batch = model_and_batch()
    monitor = ThroughputMonitor(model, CPU, "fp32")
    monitor.read()
    for _ in range(3):
        with monitor.waiting():
            now += 0.5
        with monitor.step(batch):
            step(model, batch)
            now += 1.5
    seconds = 6.0
    row = monitor.read()
    assert row["clips_per_s"] == pytest.approx(3 * TEXTS * CLIPS / seconds)
    assert row["tokens_per_s"] == pytest.approx(3 * TEXTS * CLIPS * (LENGTH + 4) / seconds)
    assert row["data_wait"] == pytest.approx(0.25)
    assert row["tflops"] == pytest.approx(3 * monitor.counts.last / seconds / 1e12)
    assert monitor.flops == 3 * monitor.counts.last
    assert row["mfu"] == pytest.approx(row["tflops"] / monitor.peak)
    assert 0.05 < row["peak_memory_gb"] < 50
    idle = monitor.read()
    assert idle["clips_per_s"] == 0
    assert monitor.flops == 3 * monitor.counts.last


def test_neither_validation_nor_recomputation_counts_as_tokens() -> None:
    model, batch = model_and_batch()
    monitor = ThroughputMonitor(model, CPU, "fp32")
    set_microbatches(model, 2)
    set_activation_checkpointing(model, True)
    with ExitStack() as stack:
        stack.enter_context(monitor.step(batch))
        step(model, batch)
    tokens = monitor._sums["tokens"]
    with monitor.paused():
        step(model, batch)
    assert monitor._sums["tokens"] == tokens == TEXTS * CLIPS * (LENGTH + 4)


def package(root: Path, microjoules: int) -> None:
    folder = root / "intel-rapl:0"
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")


def test_energy_of_a_processor_and_its_counter_that_wraps(tmp_path: Path) -> None:
    package(tmp_path, 8_000_000)
    energy = Energy(CPU, tmp_path)
    package(tmp_path, 9_500_000)
    assert energy.joules() == pytest.approx(1.5)
    package(tmp_path, 1_000_000)
    assert energy.joules() == pytest.approx(3.0)


def test_energy_is_none_where_nothing_tells(tmp_path: Path) -> None:
    assert Energy(CPU, tmp_path).joules() is None
    monitor = ThroughputMonitor(model_and_batch()[0], CPU, "fp32")
    monitor.energy = Energy(CPU, tmp_path)
    assert monitor.joules() is None
    assert "joules" not in monitor.read()


def test_a_resumed_training_goes_on_counting_joules(tmp_path: Path) -> None:
    package(tmp_path, 0)
    monitor = ThroughputMonitor(model_and_batch()[0], CPU, "fp32")
    monitor.energy = Energy(CPU, tmp_path)
    monitor.load_state_dict({"joules": 40.0, "flops": 5e9})
    package(tmp_path, 2_000_000)
    assert monitor.read()["joules"] == pytest.approx(2.0)
    assert monitor.state_dict() == {"joules": pytest.approx(42.0), "flops": 5e9}


def test_measuring_the_peak_of_a_processor_draws_nothing_that_a_training_would() -> None:
    peak_rates._measured.cache_clear()
    before = torch.get_rng_state()
    assert peak_rates.peak_tflops(torch.device("cpu"), "fp32")
    assert torch.equal(torch.get_rng_state(), before)
