"""Messages of a validation for terminal and log: failed checks, their first rows and the remedies."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text


def explain(manifest_dir: Path, out: Path, result: dict[str, Any]) -> str:
    """Return the error message of a failed validation: every failed check of severity fail."""
    failed = wrong(result, "fail")
    lines = [f"{manifest_dir}: the data fails {len(failed)} of {len(result['expectations'])} checks."]
    for outcome in failed:
        lines += [f"  {line}" for line in _lines(outcome)]
    lines.append(f"Fix data/ and run the stages again. All checks: {out / 'index.html'}")
    return "\n".join(lines)


def warn(console: Console, result: dict[str, Any]) -> None:
    """Print the failed checks of severity warn: a panel each on a terminal, plain lines in a log."""
    for outcome in wrong(result, "warn"):
        lines = _lines(outcome)
        if console.is_terminal:
            body = Text("\n".join(line.strip() for line in lines[1:-1]), style="dim")
            body.append(("\n" if len(lines) > 2 else "") + lines[-1].strip(), style="not dim")
            console.print(Panel(body, title=Text(f"warning: {lines[0]}"), title_align="left", border_style="yellow"))
        else:
            console.print("\n".join([f"validate: warning: {lines[0]}", *lines[1:]]))


def passed(console: Console, result: dict[str, Any], out: Path) -> None:
    """Print the result of a validation that passed."""
    found = result["near_duplicates"]
    if "near_duplicates" not in result["skipped"]:
        console.print(
            f"validate: {found['media']} of {found['of']} val and test media are near-duplicates of another split "
            f"({found['pairs']} pairs, at most {found['max_near_duplicates']:g} allowed)"
        )
    for row in result["truncation"] or ():
        if row["truncated"]:
            console.print(
                f"validate: {row['truncated']} of {row['texts']} texts ({row['kind']}, {row['split']}) are cut at "
                f"model.max_text_length ({row['truncated_share']:.1%}); {row['identical']} are then the same as "
                "another one"
            )
    for name, why in result["skipped"].items():
        console.print(f"validate: {name} skipped: {why}")
    total, warnings = len(result["expectations"]), len(wrong(result, "warn"))
    held = f"all {total} expectations hold" if not warnings else f"{total - warnings} of {total} expectations hold"
    with_warnings = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    console.print(f"validate: {held}{with_warnings}; see {out / 'index.html'}")


def wrong(result: dict[str, Any], severity: str) -> list[dict[str, Any]]:
    """Return the failed entries of result.json of one severity."""
    return [one for one in result["expectations"] if not one["success"] and one["severity"] == severity]


def _lines(outcome: dict[str, Any]) -> list[str]:
    """Return title, first rows and remedy."""
    title = (
        f"{outcome['check']}: {outcome['table']}: {outcome['expectation']} ({outcome['column']}): "
        f"{outcome['unexpected_count']} of {outcome['checked_rows']} rows"
    )
    rows = ["  " + ", ".join(f"{key}={value}" for key, value in row.items()) for row in outcome["failing_rows"]]
    return [title, *rows, f"  {outcome['remedy']}"]
