"""Results of a study without a training: predictions in which each setting has a known number of right items."""

from pathlib import Path

from compared import ranked_items
from study_project import write_grid

from clipbert.config.help import complete_file
from clipbert.config.schema import Params
from clipbert.evaluation.predictions_file import write_predictions
from clipbert.study.grid import read_grid
from clipbert.study.plan import Plan, make_plan
from clipbert.study.records import Evaluated, Record

ITEMS = 200
# Right items of each seed, by the label of the setting and the clips of the evaluation.
RIGHT = {
    ("base", 1): (60, 64, 62),
    ("base", 2): (62, 66, 64),
    ("clips=2", 1): (63, 61, 65),
    ("clips=2", 2): (66, 65, 64),
    ("image_size=96", 1): (120, 124, 122),
    ("image_size=96", 2): (121, 123, 125),
}
COSTS = {"base": 2.0, "clips=2": 4.0, "image_size=96": 4.5}


def make_study(folder: Path, seeds: list[int], drop: tuple[str, ...] = ()) -> tuple[Plan, dict[str, Record]]:
    """Return a plan and the records of its finished points, with predictions in `folder`."""
    (folder / "params.yaml").write_text(complete_file(Params()))
    axes = {"clips": {"model.clips": [1, 2]}, "image size": {"model.image_size": [64, 96]}}
    base = {"model.clips": 1, "model.image_size": 64}
    grid = write_grid(folder / "g.yaml", seeds=seeds, axes=axes, params=base, evaluate={"clips": [1]})
    plan = make_plan(read_grid(grid, folder), folder / "params.yaml", folder)
    records = {}
    for point in plan.points:
        if point.name in drop:
            continue
        evaluations = []
        for clips in plan.clips:
            right = RIGHT[point.setting.label, clips][point.seed]
            # which items are right depends on the seed too
            start = 7 * point.seed
            items = ranked_items([1.0 if (i - start) % ITEMS < right else 4.0 for i in range(ITEMS)])
            file = f"validation/clips{clips}.parquet"
            (folder / point.name / "validation").mkdir(parents=True, exist_ok=True)
            write_predictions(folder / point.name / file, items, {})
            own_clips = 2 if point.setting.label == "clips=2" else 1
            for aggregation, own in (("lse", True), ("max", False)):
                evaluations.append(Evaluated(clips, aggregation, own, own_clips, float(clips), file, {}))
        cost = {"tflop": COSTS[point.setting.label], "seconds": 30.0}
        records[point.name] = Record(point.name, "f", "c", None, cost, {"retrieval/r1": 25.0}, 60.0, tuple(evaluations))
    return plan, records
