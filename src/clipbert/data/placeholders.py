"""Words that table programs write for an empty cell."""

PLACEHOLDERS = frozenset({"nan", "none", "null", "n/a", "#n/a", "<na>", "nat"})


def is_placeholder(text: str) -> bool:
    """Return whether a text is only the mark of a missing value, such as the `nan` of pandas."""
    return text.strip().casefold() in PLACEHOLDERS
