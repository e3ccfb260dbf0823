"""Measured results by the number of training videos: what a recommendation may promise. Every figure is in docs/."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """Measured quality of a task's model.

    Attributes:
        task: name of the task.
        recipe: the recipe it was trained with; None: `params.yaml` as committed.
        training_videos: their number.
        metrics: {metric: mean over the seeds}.
        chance: the same metrics of a random answer, or of the best trivial one.
        tested_on: split, size and data of the test.
        seeds: how many trainings.
        source: page with the command and the date.
    """

    task: str
    recipe: str | None
    training_videos: int
    metrics: dict[str, float]
    chance: dict[str, float]
    tested_on: str
    seeds: int
    source: str


RETRIEVAL = ("R@1 %", "R@5 %", "R@10 %", "median rank")


def _retrieval(recipe: str | None, videos: int, figures: Sequence[float], gallery: int, **where: object) -> Result:
    chance = [*(round(100 * k / gallery, 1) for k in (1, 5, 10)), (gallery + 1) / 2]
    return Result(
        "retrieval",
        recipe,
        videos,
        dict(zip(RETRIEVAL, figures, strict=True)),
        dict(zip(RETRIEVAL, chance, strict=True)),
        **where,  # type: ignore[arg-type]
    )


RESULTS = (
    _retrieval(
        "small",
        40,
        (20.0, 66.7, 84.4, 4.0),
        15,
        tested_on="15 test videos of MSR-VTT, three captions each",
        seeds=1,
        source="docs/tutorial/own-data.md",
    ),
    _retrieval(
        "small",
        150,
        (11.7, 38.1, 50.0, 10.0),
        120,
        tested_on="120 test videos of MSR-VTT, one caption each",
        seeds=3,
        source="docs/results.md",
    ),
    _retrieval(
        "small",
        600,
        (18.3, 53.6, 65.8, 4.8),
        120,
        tested_on="120 test videos of MSR-VTT, one caption each",
        seeds=3,
        source="docs/results.md",
    ),
    _retrieval(
        None,
        1100,
        (69.4, 100.0, 100.0, 1.0),
        160,
        tested_on="160 test videos of the sample set",
        seeds=1,
        source="docs/tutorial/first-run.md",
    ),
    Result(
        "open_qa",
        None,
        1100,
        {"accuracy %": 51.5},
        {"accuracy %": 6.9},
        tested_on="the test videos of the sample set",
        seeds=1,
        source="docs/tutorial/first-run.md",
    ),
)


def nearest_results(task: str, recipe: str | None, videos: int) -> list[Result]:
    """Return the results with the next smaller (or equal) and the next larger number of training videos."""
    known = sorted(
        (result for result in RESULTS if (result.task, result.recipe) == (task, recipe)),
        key=lambda result: result.training_videos,
    )
    below = [result for result in known if result.training_videos <= videos]
    above = [result for result in known if result.training_videos > videos]
    exact = below and below[-1].training_videos == videos
    return below[-1:] + ([] if exact else above[:1])
