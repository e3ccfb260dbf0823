"""The loop: it learns, it resumes to the very same weights, and it stops on a loss that is no number."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from clipbert.config.schema import Params
from clipbert.data.manifest import read_texts
from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.tasks import make_task
from clipbert.training.batch_iterator import SynchronizedBatchIterator
from clipbert.training.checkpoint import Checkpoints, TrainState, generator_states
from clipbert.training.data import Batches, DistributedBatchSampler, TrainingSamples, training_batches
from clipbert.training.setup import build_model
from clipbert.training.step import TrainStep
from clipbert.training.stopping import StopRequest
from clipbert.training.trainer import Run, export, start, train


@dataclass
class Log:
    run_id: str | None = "run"
    steps: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    stop_at: int | None = None

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.steps.append((step, values))
        if step == self.stop_at:
            raise KeyboardInterrupt

    def flush(self) -> None:
        pass


def params(**train: object) -> Params:
    values = {"batch_size": 8, "checkpoint_every_steps": 2, "lr": 0.001, "min_steps": 0} | train
    return Params.model_validate(
        {
            "train": values,
            "tasks": {
                name: {"epochs": 4}
                for name in ("retrieval", "open_qa", "multiple_choice", "image_qa", "captioning", "pretrain")
            },
            "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48},
        }
    )


def make_run(project: Path, folder: Path, task_name: str, settings: Params) -> Run:
    task = make_task(task_name, settings)
    texts = read_texts(project / "artifacts" / "manifest")
    examples, val = task.examples(texts, "train"), task.examples(texts, "val")
    torch.manual_seed(settings.seed)
    model, processor = build_model(task, examples, settings)
    cache = FrameCache(project / "artifacts" / "frames")
    return Run(task, model, processor, cache, examples, val, settings, Checkpoints(folder, {}), torch.device("cpu"))


def finish(run: Run, log: Log) -> TrainState:
    state, stepper = start(run)
    return train(run, state, stepper, log)


@pytest.mark.parametrize(
    ("task", "batches"),
    [
        ("retrieval", {}),
        ("open_qa", {}),
        ("multiple_choice", {}),
        ("pretrain", {"batch_size": 4}),
        ("retrieval", {"batch_size": 4, "gradient_accumulation_steps": 2}),
        ("open_qa", {"batch_size": 2, "gradient_accumulation_steps": 4}),
        ("retrieval", {"ema_decay": 0.9, "schedule": "cosine", "lr_multipliers": {"clipbert.embeddings": 0.1}}),
        ("captioning", {"budget": "12 steps", "freeze_vision": True, "label_smoothing": 0.1}),
    ],
)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    tiny_project: Path, tmp_path: Path, task: str, batches: dict[str, object]
) -> None:
    straight = make_run(tiny_project, tmp_path / "straight", task, params(**batches))
    undisturbed = finish(straight, Log())
    assert undisturbed.step == 12

    # Killed while logging step 10: the checkpoint of step 10 was not yet written, one of a step before it was.
    with pytest.raises(KeyboardInterrupt):
        finish(make_run(tiny_project, tmp_path / "killed", task, params(**batches)), Log(stop_at=10))
    resumed = make_run(tiny_project, tmp_path / "killed", task, params(**batches))
    log = Log()
    state = finish(resumed, log)

    assert 1 < log.steps[0][0] <= 10
    assert state.history[-1]["loss"] == undisturbed.history[-1]["loss"]
    assert [row["epoch"] for row in state.validation] == [1, 2, 3, 4]
    assert [row["step"] for row in state.history] == [row["step"] for row in undisturbed.history]
    for (name, a), b in zip(straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_budget_of_steps_is_what_is_trained_whatever_the_epochs_are(tiny_project: Path, tmp_path: Path) -> None:
    log = Log()
    state = finish(make_run(tiny_project, tmp_path, "retrieval", params(budget="20 steps")), log)
    assert state.step == 20
    assert [row["epoch"] for row in state.validation] == [1, 2, 3, 4, 5, 6, 7]
    assert state.validation[-1]["step"] == 20
    assert state.history[-1]["lr"] == pytest.approx(0.001 / 18)  # the last of 18 steps that fall to zero


def test_a_budget_of_seconds_ends_trained_at_it(tiny_project: Path, tmp_path: Path) -> None:
    state = finish(make_run(tiny_project, tmp_path, "retrieval", params(budget="6 s")), Log())
    assert 4 < state.seconds < 9
    assert state.history[-1]["lr"] < 0.2 * max(row["lr"] for row in state.history)
    assert state.validation[-1]["step"] == state.step


def test_training_ends_when_patience_does_also_after_a_resume(tiny_project: Path, tmp_path: Path) -> None:
    settings = params(patience=2, lr=1e-9, vision_lr=1e-9)  # nothing is learned, so nothing becomes better
    state = finish(make_run(tiny_project, tmp_path, "open_qa", settings), Log())
    assert [row["epoch"] for row in state.validation] == [1, 2, 3]
    assert (state.step, state.best_epoch) == (9, 1)
    again = finish(make_run(tiny_project, tmp_path, "open_qa", settings), Log())
    assert again.step == 9


def test_small_batches_make_the_gradient_of_the_large_one(tiny_project: Path, tmp_path: Path) -> None:
    gradients, losses = [], []
    for batch_size, gradient_accumulation_steps in ((8, 1), (2, 4)):
        settings = params(
            batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps, max_grad_norm=1e9
        )
        open_qa = settings.tasks.open_qa.model_copy(update={"caption_weight": 0.0, "questions_per_video": 1})
        settings = settings.model_copy(update={"tasks": settings.tasks.model_copy(update={"open_qa": open_qa})})
        run = make_run(tiny_project, tmp_path / str(batch_size), "open_qa", settings)
        state, stepper = start(run)
        run.model.eval()  # no dropout, and batch norms that don't depend on the batch
        stepped = stepper.step(
            feed_of(run, stepper), gradient_accumulation_steps, run.checkpoints, state, generator_states()
        )
        assert sum(len(batch.ids) for batch in stepped.batches) == 8
        losses.append(stepped.losses["loss"].item())
        gradients.append({name: p.grad for name, p in run.model.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-3


def feed_of(run: Run, stepper: TrainStep) -> SynchronizedBatchIterator:
    samples = TrainingSamples(run.cache, run.train, run.task, run.model.config, run.params.seed)
    batches = Batches(samples, run.order(), run.processor, 0, run.device)
    return SynchronizedBatchIterator(
        batches, DistributedContext(), StopRequest(0, bound=False), lambda: False, lambda: SystemExit(0), stepper.meter
    )


@pytest.mark.parametrize("task", ["open_qa", "multiple_choice", "image_qa"])
def test_the_loss_falls_and_the_exported_model_loads(tiny_project: Path, tmp_path: Path, task: str) -> None:
    from clipbert.model import load

    run = make_run(tiny_project, tmp_path / "checkpoints", task, params(lr=0.003))
    first = run.task.loss(run.model, next(iter(_batches(run))))[0].item()
    state = finish(run, Log())
    assert state.history[-1]["loss"] < first
    assert state.best == max(row[f"{task}/accuracy"] for row in state.validation)
    export(run, tmp_path / "model", "a card")
    assert (tmp_path / "model" / "README.md").read_text() == "a card"
    loaded = load(tmp_path / "model")
    assert loaded.config.answers == run.model.config.answers
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), run.model.parameters(), strict=True))


def test_a_model_that_is_no_number_stops_the_training(tiny_project: Path, tmp_path: Path) -> None:
    run = make_run(tiny_project, tmp_path / "checkpoints", "open_qa", params())
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(ClipBertError, match=r"1[12] steps .* no finite number, .* train.max_bad_steps = 10.*question-"):
        finish(run, Log())


class Known:
    """An energy meter that has counted this much."""

    def joules(self) -> float:
        return 5.0


class WithAllVideos(Run):
    """Whichever of several processes it is."""

    def order(self, step: int = 0) -> DistributedBatchSampler:
        return (
            replace(self, ranks=DistributedContext()).order(step)
            if self.ranks != DistributedContext()
            else super().order(step)
        )


def test_what_the_processes_took_together_is_counted_once_when_they_go_on(tiny_project: Path, tmp_path: Path) -> None:
    for rank, joules in ((0, 105.0), (1, 5.0)):
        made = make_run(tiny_project, tmp_path / str(rank), "retrieval", params())
        run = WithAllVideos(**vars(made) | {"ranks": DistributedContext(rank)})
        _, stepper = start(run)
        stepper.meter.energy = Known()  # type: ignore[assignment]
        train(
            run,
            TrainState(step=12, joules=100.0, validation=[{"step": 12, "epoch": 4, "retrieval/mrr": 1.0}]),
            stepper,
            Log(),
        )
        assert stepper.meter.joules() == joules


def _batches(run: Run):  # type: ignore[no-untyped-def]
    order = DistributedBatchSampler(len(run.train), 8, 1, 0)
    samples = TrainingSamples(run.cache, run.train, run.task, run.model.config, 0)
    return training_batches(samples, order, run.processor, 0, pin_memory=False)
