"""How does retrieval grow with the number of training videos? Draws the rows that `benchmarks.real_videos` wrote.

python -m benchmarks.real_videos videodatainfo.json videos/ --train 40 150 600 --json rows.json
python -m benchmarks.learning_curve rows.json learning-curve.svg
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.intervals import interval

MEASURES = {"r1": ("R@1", 1, "#2457c5"), "r5": ("R@5", 5, "#0f8a6a"), "r10": ("R@10", 10, "#b45309")}


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Return the figure: a point for each training, the mean over the seeds with its interval over the queries.

    Raises:
        ValueError: the rows are of several splits.
    """
    splits = {row["split"] for row in rows}
    if len(splits) != 1:
        raise ValueError(f"the rows are of the splits {', '.join(sorted(splits))}: expected rows of one split")
    counts = sorted({row["train"] for row in rows})
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (label, rank, color) in MEASURES.items():
        means, below, above = [], [], []
        for count in counts:
            values = [row[name] for row in rows if row["train"] == count]
            axes.plot([count] * len(values), values, "o", color=color, markersize=3, alpha=0.5)
            mean = sum(values) / len(values)
            low, high = (100 * end for end in interval(mean / 100, rows[0]["queries"]))
            means.append(mean)
            below.append(mean - low)
            above.append(high - mean)
        axes.errorbar(counts, means, (below, above), color=color, capsize=4, linewidth=1.8, label=label)
        axes.axhline(100 * rank / rows[0]["gallery"], color=color, linestyle=":", linewidth=1)
    axes.set(xscale="log", xlabel="training videos", ylabel="queries, %", ylim=(0, 100))
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    gallery, (split,) = rows[0]["gallery"], splits
    axes.set_title(f"Text-to-video retrieval, {gallery} {split} videos; dotted: chance", fontsize=10, loc="left")
    axes.legend(frameon=False, loc="upper left")
    return figure


def main() -> None:
    """Draw the file of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="what `benchmarks.real_videos --json` wrote")
    parser.add_argument("image", type=Path, help="an .svg or .png file")
    options = parser.parse_args()
    metadata = {"Date": None} if options.image.suffix == ".svg" else {}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "clipbert", "font.size": 10}):
        draw(json.loads(options.rows.read_text())).savefig(options.image, dpi=150, metadata=metadata)


if __name__ == "__main__":
    main()
