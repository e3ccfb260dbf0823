"""Charts of a study: accuracy against cost with the Pareto front, and the settings of an axis with their intervals."""

from clipbert.dashboard.charts import BLUE, GRAY, GREEN, draw
from clipbert.study.analysis import MS, TFLOP, Analysis, AxisTable

COST_TITLES = {TFLOP: "training compute, TFLOP", MS: "evaluation, ms per item"}
FRONT, OTHER, CHOICE = "Pareto front", "other setting", "choice"


def cost_chart(analysis: Analysis, width: int = 640, height: int = 300) -> str:
    """Return the mean of each setting against its cost, with its standard error; a line joins the Pareto front."""
    rows = [
        {
            "name": row.name,
            "cost": row.cost[analysis.cost],
            "mean": row.mean.value,
            "low": row.mean.value - row.mean.standard_error,
            "high": row.mean.value + row.mean.standard_error,
            "kind": CHOICE if row.name == analysis.choice.name else FRONT if row.pareto else OTHER,
        }
        for row in analysis.rows
        if analysis.cost in row.cost
    ]
    order = [OTHER, FRONT, CHOICE]  # the choice is drawn last
    rows.sort(key=lambda row: order.index(str(row["kind"])))
    shown = [row for row in rows if row["kind"] != OTHER]
    x = {
        "field": "cost",
        "type": "quantitative",
        "title": COST_TITLES[analysis.cost],
        "scale": {"zero": False, "padding": 24},
        "axis": {"tickCount": 8, "labelFlush": False},
    }
    y = {"type": "quantitative", "title": f"validation {analysis.metric}", "scale": {"zero": False}}
    color = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": [CHOICE, FRONT, OTHER], "range": [GREEN, BLUE, GRAY]},
        "legend": None,
    }
    kind = {"condition": {"test": f"datum.kind === '{OTHER}'", "value": 0.55}, "value": 1}
    spec = {
        "width": width,
        "height": height,
        "data": {"values": rows},
        "encoding": {"x": x},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 1.5},
                "encoding": {
                    "y": {"field": "low", **y},
                    "y2": {"field": "high"},
                    "color": color,
                    "opacity": {"condition": {"test": f"datum.kind === '{OTHER}'", "value": 0.3}, "value": 0.8},
                },
            },
            {
                "data": {"values": shown},
                "mark": {"type": "line", "color": BLUE, "strokeWidth": 1.5, "strokeDash": [5, 3]},
                "encoding": {"y": {"field": "mean", "type": "quantitative"}, "order": {"field": "mean"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80},
                "encoding": {"y": {"field": "mean", "type": "quantitative"}, "color": color, "opacity": kind},
            },
        ],
    }
    return draw(spec, f"Validation {analysis.metric} of each setting against its cost, with standard errors")


def axis_chart(axis: AxisTable, analysis: Analysis, width: int = 300) -> str:
    """Return the settings of an axis with their means and intervals; the reference is gray."""
    rows = [
        {
            "label": one.label,
            "mean": one.row.mean.value,
            "low": one.row.mean.low,
            "high": one.row.mean.high,
            "kind": "reference" if one.effect is None else "setting",
        }
        for one in axis.rows
    ]
    color = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": ["reference", "setting"], "range": [GRAY, BLUE]},
        "legend": None,
    }
    y = {
        "field": "label",
        "type": "ordinal",
        "sort": None,
        "title": None,
        "axis": {"labelLimit": 190, "domain": False, "ticks": False},
    }
    x = {"type": "quantitative", "title": f"validation {analysis.metric}", "scale": {"zero": False}}
    spec = {
        "width": width,
        "height": {"step": 30},
        "data": {"values": rows},
        "encoding": {"y": y, "color": color},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {"x": {"field": "mean", "type": "quantitative"}},
            },
        ],
    }
    return draw(spec, f"{axis.name}: validation {analysis.metric} with 95 % intervals")
