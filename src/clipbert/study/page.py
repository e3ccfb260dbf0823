"""The page of a study: one file with the answer, accuracy against cost, and a table for each axis."""

from datetime import UTC, datetime
from pathlib import Path

from clipbert.files.atomic import atomic_write
from clipbert.pages.page import render_page
from clipbert.study.analysis import Analysis
from clipbert.study.charts import COST_TITLES, axis_chart, cost_chart
from clipbert.study.plan import Plan
from clipbert.study.text import answer, cost_text, effect_text, mean_text, seeds_text
from clipbert.tasks import task_class

FILE = "index.html"


def write_page(plan: Plan, commit: str, analysis: Analysis, folder: Path) -> Path:
    """Write index.html into the study's folder and return its path.

    Args:
        commit: from which the points started.
    """
    grid = plan.grid
    page = render_page(
        "clipbert.study",
        "study.html.j2",
        ("study.css",),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        study=grid.name,
        title=task_class(grid.task).report.title,
        grid=grid,
        commit=commit[:7],
        metric=analysis.metric,
        cost_title=COST_TITLES[analysis.cost],
        answer=list(answer(analysis)),
        chart=cost_chart(analysis) if any(analysis.cost in row.cost for row in analysis.rows) else None,
        axes=[(axis, axis_chart(axis, analysis)) for axis in analysis.axes],
        analysis=analysis,
        cost_text=cost_text,
        effect_text=effect_text,
        mean_text=mean_text,
        seeds_text=seeds_text,
    )
    path = folder / FILE
    with atomic_write(path, "w") as file:
        file.write(page)
    return path
