"""The HTML page about a verdict of the promotion gate: one file with every number."""

from pathlib import Path
from typing import Any

from clipbert.config.yaml_io import leaves
from clipbert.errors import first_line
from clipbert.files.atomic import atomic_write
from clipbert.pages.page import render_page
from clipbert.release.decisions import Decision

WORDS = {"promoted": "good", "pending": "unclear", "rejected": "bad", "declined": "bad", "rolled_back": "bad"}
MARKS = {"passed": "good", "failed": "bad", "skipped": "soft"}


def write_verdict_page(decision: Decision, last: Decision, out: Path) -> None:
    """Write the page about a decision with a verdict, unless the file has it already.

    Args:
        decision: the last one with a verdict.
        last: the last one, which may have rolled the version back since.

    Raises:
        ClipBertError: the file cannot be written.
    """
    page = verdict_page(decision, last)
    if _read(out) != page:
        with atomic_write(out, "w") as file:
            file.write(page)


def verdict_page(decision: Decision, last: Decision) -> str:
    """Return the page; see `write_verdict_page`."""
    verdict: dict[str, Any] = decision.verdict or {}
    champion = verdict["champion"]
    models = [(f"version {decision.version}", verdict["candidate"])]
    models += [] if champion is None else [(f"version {champion['version']}, the champion", champion)]
    names = list(dict.fromkeys(name for _, model in models for name in model["facts"]))
    return render_page(
        "clipbert.release",
        "verdict.html.j2",
        ("verdict.css",),
        title=f"{decision.name} version {decision.version}: {decision.decision}",
        kind=WORDS.get(decision.decision, "unclear"),
        decision=decision,
        at=decision.at.replace("T", " ").removesuffix("+00:00"),
        later=None if last.id == decision.id else last,
        verdict=verdict,
        marks=MARKS,
        models=[name for name, _ in models],
        facts=[(name, [model["facts"].get(name, "") for _, model in models]) for name in names],
        policy=[(name, "null" if value is None else str(value)) for name, value in leaves(verdict["policy"])],
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return first_line(error)
