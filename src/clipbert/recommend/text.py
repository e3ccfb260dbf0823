"""A recommendation as lines for a person."""

from clipbert.durations import format_rough_duration
from clipbert.recommend.data_summary import SPLITS, DataSummary
from clipbert.recommend.recommendation import Recommendation
from clipbert.recommend.results import Result
from clipbert.recommend.times import RATES_FROM

WIDTH = 10  # of the column with the titles


def lines(advice: Recommendation) -> list[str]:
    """Return the lines of a recommendation."""
    found = _titled("data", _data(advice.data))
    found += _titled("machine", [advice.machine.describe()])
    recipe = f"recipe {advice.recipe} " if advice.recipe else "params.yaml as committed "
    found += _titled("use", [f"{recipe}(preset {advice.preset}), tasks {', '.join(advice.tasks)}"])
    changes = [f"{item.name}={item.value}: {item.reason}" for item in advice.overrides]
    found += _titled("overrides", changes or ["none"])
    found += _titled("time", _times(advice))
    found += _titled("expect", [line for task in advice.tasks for line in _expect(task, advice)])
    found += _titled("note", advice.notes)
    found += _titled("run", [*advice.first, advice.command])
    return found


def _titled(title: str, texts: list[str]) -> list[str]:
    return [f"{title if number == 0 else '':<{WIDTH}} {text}" for number, text in enumerate(texts)]


def _data(data: DataSummary) -> list[str]:
    parts = [f"{count} {name}" for count, name in ((data.videos, "videos"), (data.images, "images")) if count]
    by_split = ", ".join(f"{split} {data.media[split]}" for split in SPLITS)
    found = [f"{' and '.join(parts)}: {by_split}"]
    if data.duration_s is not None:
        low, middle, high = data.duration_s
        found.append(f"videos of {low:.1f} to {high:.1f} s, median {middle:.1f} s")
    for task in data.tasks:
        texts = ", ".join(f"{split} {task.texts[split]}" for split in SPLITS)
        per_item = task.texts["train"] / task.items["train"]
        found.append(f"{task.task}: texts in {texts}; {per_item:.1f} per training item")
    return found


def _times(advice: Recommendation) -> list[str]:
    known = [time for time in advice.times if time.seconds is not None]
    unknown = [time.stage for time in advice.times if time.seconds is None]
    if not known:
        return [f"{time.stage}: {time.work}" for time in advice.times]
    without = f", without {', '.join(unknown)}" if unknown else ""
    found = [f"about {format_rough_duration(advice.total_s)}{without}; {RATES_FROM}"]
    found += [f"  {time.stage:<19} {format_rough_duration(time.seconds or 0):>7}  {time.work}" for time in known]
    return found + [f"  {time.stage:<19} {'unknown':>7}  {time.work}" for time in advice.times if time.seconds is None]


def _expect(task: str, advice: Recommendation) -> list[str]:
    results = advice.results[task]
    if not results:
        return [f"{task}: not measured on real data with this recipe"]
    videos = next(item.items["train"] for item in advice.data.tasks if item.task == task)
    found = [f"{task} with {videos} training videos; measured:"]
    found += [f"  {_result(result)}" for result in results]
    if results[-1].training_videos < videos:
        found.append(f"  more than {results[-1].training_videos} training videos were not measured")
    if results[0].training_videos > videos:
        found.append(f"  fewer than {results[0].training_videos} training videos were not measured")
    return found


def _result(result: Result) -> str:
    metrics = ", ".join(_metric(name, value, result.chance[name]) for name, value in result.metrics.items())
    seeds = f"{result.seeds} seed{'s' if result.seeds > 1 else ''}"
    return f"{result.training_videos} videos: {metrics}; {result.tested_on}, {seeds} ({result.source})"


def _metric(name: str, value: float, chance: float) -> str:
    unit = " %" if name.endswith(" %") else ""
    return f"{name.removesuffix(unit)} {value:g}{unit} (chance {chance:g}{unit})"
