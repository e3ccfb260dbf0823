"""What a training reports its metrics to."""

from typing import Protocol


class Tracker(Protocol):
    """Experiment tracker; release/tracking.py implements it with MLflow."""

    @property
    def run_id(self) -> str | None:
        """The tracked run, which a resumed training continues."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Record the values of a step."""

    def flush(self) -> None:
        """Write what was recorded to disk."""


class NoOpTracker:
    """Tracker of the processes other than the first one; records nothing."""

    run_id = None

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""
