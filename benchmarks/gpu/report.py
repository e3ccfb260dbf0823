"""The results of the GPU kit as a table, and as a section of docs/concepts/performance.md.

    python -m benchmarks.gpu.report artifacts/gpu/gpu.json                                     # print the table
    python -m benchmarks.gpu.report artifacts/gpu/gpu.json --docs docs/concepts/performance.md # take it over

The section is what stands between two marker comments, which stay.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BEGIN, END = "<!-- gpu kit: begin -->", "<!-- gpu kit: end -->"
LOG_WIDTH = 130


def number(value: float) -> str:
    """Return a figure with three digits, or as the whole number that it is."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def rows(results: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return part, measure, result, target and whether it is met, for each figure of each part."""
    found = []
    for part in results["parts"]:
        if part["status"] != "ok":
            found.append((part["name"], part["detail"], part["status"], "", ""))
        for measure in part["measures"]:
            bound = "at least" if measure["at_least"] else "at most"
            target = "" if measure["target"] is None else f"{bound} {number(measure['target'])}"
            met = {None: "", True: "yes", False: "no"}[measure["met"]]
            value = f"{number(measure['value'])} {measure['unit']}".rstrip()
            found.append((part["name"], measure["what"], value, target, met))
    return found


def described(results: dict[str, Any]) -> str:
    """Return the machine, the versions and the data in one line."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    gpu = f"{machine['device']} ({machine['memory_gb']:g} GB)" if machine["memory_gb"] else machine["device"]
    dry = "; a check at tiny sizes, not a measurement" if results["dry_run"] else ""
    return f"{results['date']}, {gpu}, {machine['cores']} cores, {versions}; data: {results['data']}{dry}"


def print_table(results: dict[str, Any], console: Console | None = None) -> None:
    """Print one table of all parts."""
    # a log has no width of its own
    console = console or Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    table = Table("part", "measure", "result", "target", "met")
    last = None
    for part, *cells in rows(results):
        if last is not None and part != last:
            table.add_section()
        table.add_row("" if part == last else part, *cells)
        last = part
    console.print(described(results), soft_wrap=True, highlight=False)
    console.print(table)


def section(results: dict[str, Any]) -> str:
    """Return the section in Markdown.

    Raises:
        SystemExit: the results are of a check without a GPU.
    """
    if results["dry_run"] or results["machine"]["type"] != "cuda":
        raise SystemExit(
            "these results are of a check without a GPU: nothing was measured that documentation could name."
        )
    lines = [f"`make gpu`, {described(results)}, {results['seconds']:.0f} s in all:", ""]
    lines += ["| part | measure | result | target | met |", "|---|---|---|---|---|"]
    last = None
    for part, *cells in rows(results):
        lines.append(f"| {'' if part == last else part} | {' | '.join(cells)} |")
        last = part
    return "\n".join(lines)


def take_over(results: dict[str, Any], page: Path) -> None:
    """Replace what stands between the markers of a page by the section of the results.

    Raises:
        SystemExit: the page does not have one pair of markers, or nothing was measured.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{page}: expected one {BEGIN} and one {END} after it. Restore them: git checkout {page}")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}\n\n{section(results)}\n\n{after}", encoding="utf-8")


def main() -> None:
    """Print the table or write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="gpu.json of the kit")
    parser.add_argument("--docs", type=Path, help="the page to write into")
    options = parser.parse_args()
    try:
        results = json.loads(options.results.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"{options.results}: cannot be read ({error}); expected gpu.json as `make gpu` writes it."
        ) from None
    if options.docs:
        take_over(results, options.docs)
    else:
        print_table(results)


if __name__ == "__main__":
    main()
