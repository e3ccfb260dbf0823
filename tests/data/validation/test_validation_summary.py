"""What is said: panels on a terminal, plain lines in a log, the same words."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from clipbert.data.validation.summary import explain, passed, warn

ROW = {
    "table": "videos",
    "expectation": "expect_x",
    "column": "motion",
    "unexpected_count": 2,
    "checked_rows": 9,
    "failing_rows": [{"motion": 0.0, "media": "videos/[a].mp4"}],
}
RESULT: dict[str, Any] = {
    "expectations": [
        {**ROW, "check": "frozen", "severity": "warn", "success": False, "remedy": "Look at them."},
        {**ROW, "check": "ids", "severity": "fail", "success": False, "remedy": "Give each its own."},
        {**ROW, "check": "schema", "severity": "fail", "success": True, "remedy": ""},
    ],
    "near_duplicates": {"media": 3, "of": 260, "pairs": 4, "max_near_duplicates": 0.05},
    "truncation": [
        {
            "kind": "caption",
            "split": "train",
            "texts": 40,
            "truncated": 10,
            "truncated_share": 0.25,
            "identical": 4,
            "identical_share": 0.1,
        },
        {
            "kind": "caption",
            "split": "val",
            "texts": 5,
            "truncated": 0,
            "truncated_share": 0.0,
            "identical": 0,
            "identical_share": 0.0,
        },
    ],
    "skipped": {"drift": "no other manifest has passed yet"},
}


def printed(terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None, markup=False)
    warn(console, RESULT)
    held = [row for row in RESULT["expectations"] if row["check"] != "ids"]
    passed(console, RESULT | {"expectations": held}, Path("out"))
    return out.getvalue()


def test_a_log_gets_plain_lines() -> None:
    lines = printed(terminal=False).splitlines()
    assert lines[0] == "validate: warning: frozen: videos: expect_x (motion): 2 of 9 rows"
    assert lines[1:3] == ["  motion=0.0, media=videos/[a].mp4", "  Look at them."]
    rest = " ".join(map(str.strip, lines[3:]))  # the console wraps long lines
    assert "3 of 260 val and test media are near-duplicates of another split (4 pairs" in rest
    assert (
        "validate: 10 of 40 texts (caption, train) are cut at model.max_text_length (25.0%); 4 are then the same as "
        "another one validate: drift skipped: no other manifest has passed yet "
        "validate: 1 of 2 expectations hold, 1 warning; see out"
    ) in rest


def test_a_terminal_gets_a_panel_with_the_same_words() -> None:
    text = printed(terminal=True)
    assert "warning: frozen: videos" in text
    assert "motion=0.0, media=videos/[a].mp4" in text
    assert "Look at them." in text
    assert "╭" in text


def test_a_failure_names_the_checks_that_fail_alone() -> None:
    message = explain(Path("manifest"), Path("out"), RESULT)
    assert message.startswith("manifest: the data fails 1 of 3 checks.\n  ids: videos: expect_x (motion): 2 of 9 rows")
    assert "Give each its own." in message
    assert "frozen" not in message
