"""A small training split gets more epochs; a larger one trains as its task's epochs say."""

from pathlib import Path

import pytest
from small_trainings import Log, finish, make_trainer, params

from clipbert.config.schema import Params
from clipbert.training.data import DistributedBatchSampler
from clipbert.training.length import TrainingLength, length_lines, training_length


def test_the_sample_set_trains_as_long_as_before() -> None:
    """1,100 training videos: 272 steps of retrieval, 612 of open QA, as docs/concepts/performance.md has them."""
    train, tasks = Params().train, Params().tasks
    for epochs, steps in ((tasks.retrieval.epochs, 272), (tasks.open_qa.epochs, 612)):
        length = training_length(1100, train.batch_size, train.gradient_accumulation_steps, epochs, train.min_steps)
        assert (length.steps, length.epochs, length.epochs_per_validation) == (steps, epochs, 1)


@pytest.mark.parametrize(
    ("videos", "epochs", "steps", "every"),
    [(22, 250, 250, 31), (40, 250, 250, 31), (400, 21, 252, 2), (1, 250, 250, 31)],
)
def test_a_small_split_gets_more_epochs(videos: int, epochs: int, steps: int, every: int) -> None:
    length = training_length(videos, 32, 1, 8, 250)
    assert (length.epochs, length.steps, length.epochs_per_validation) == (epochs, steps, every)
    assert training_length(videos, 32, 1, 8, 0).epochs == 8


@pytest.mark.parametrize(
    ("videos", "batch", "gradient_accumulation_steps"), [(22, 32, 1), (100, 8, 4), (10, 4, 64), (33, 32, 2)]
)
def test_steps_per_epoch_are_those_of_the_training_order(
    videos: int, batch: int, gradient_accumulation_steps: int
) -> None:
    order = DistributedBatchSampler(videos, batch, 3, 0, gradient_accumulation_steps=gradient_accumulation_steps)
    assert training_length(videos, batch, gradient_accumulation_steps, 3, 0).steps_per_epoch == order.steps_per_epoch


def test_a_training_makes_the_steps_and_validates_as_often_as_asked(tiny_project: Path, tmp_path: Path) -> None:
    log = Log()
    state = finish(make_trainer(tiny_project, tmp_path, "retrieval", params(min_steps=24)), log)
    assert state.step == 24
    assert [row["epoch"] for row in state.validation] == [2, 4, 6, 8]  # 4 epochs were asked for


def test_what_is_said() -> None:
    raised = TrainingLength(250, 8, 1, 31)
    small, more = length_lines("retrieval", 22, raised, 250, 400)
    fewer = "retrieval: warning: 22 training videos are fewer than validate.min_train_videos = 400"
    expect = "What to expect: `clipbert recommend`"
    assert small == f"{fewer}; a model that starts from random weights stays near chance. {expect}"
    assert length_lines("retrieval", 22, raised, 250, 400, pretrained=True) == [f"{fewer}. {expect}", more]
    assert "250 epochs instead of tasks.retrieval.epochs = 8, for train.min_steps = 250" in more
    assert length_lines("retrieval", 1100, TrainingLength(8, 8, 34, 1), 250, 400) == []
