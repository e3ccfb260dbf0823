"""Durations for readers, in two precisions."""


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, as "45 s", "2 min 18 s" or "1 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_rough_duration(seconds: float) -> str:
    """Return about how long something takes, in one unit, as "45 s", "12 min" or "3.4 h"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
