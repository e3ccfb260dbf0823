"""The cost of a training from the rows that it logged."""

from clipbert.training.history import training_cost


def test_the_cost_is_the_sum_over_the_rows_and_the_processes() -> None:
    rows = [{"step": 10, "pflop": 0.5, "joules": 30.0}, {"step": 20, "pflop": 0.25, "joules": 20.0}]
    assert training_cost(rows, 12.34, 1000, processes=1) == {
        "seconds": 12.3,
        "parameters": 1000.0,
        "flops": 0.75e15,
        "joules": 50.0,
    }
    assert training_cost(rows, 12.34, 1000, processes=4)["flops"] == 3e15


def test_what_was_not_measured_is_left_out() -> None:
    # A training that was resumed from a checkpoint of an older version has rows without the operations.
    assert training_cost([{"step": 10}, {"step": 20, "pflop": 0.1}], 5, 10, 1) == {"seconds": 5.0, "parameters": 10.0}
    assert training_cost([], 5, 10, 1) == {"seconds": 5.0, "parameters": 10.0}
