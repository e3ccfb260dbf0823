"""Decision of the promotion gate, with the numbers behind it."""

import platform
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from clipbert.release.provenance import user_name

NUMBERS = ("items", "mean_score", "mean_difference", "low", "high", "p_value")


def utc_now() -> str:
    """Return the present time in UTC, in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user_at_host() -> str:
    """Return USER@HOST of this process."""
    return f"{user_name()}@{platform.node()}"


@dataclass(frozen=True)
class Decision:
    """A decision about a version (scores from 0 to 1)."""

    task: str
    name: str  # of the registered model
    decision: Literal["promoted", "rejected", "unchanged", "rolled_back"]
    reason: str
    version: str  # the candidate, or the version that was rolled back
    champion: str | None  # the version in use after the decision
    against: str | None  # the version compared with, or the name of a trivial baseline
    digest: str = ""  # of the files of `version`
    items: int | None = None
    mean_score: float | None = None
    mean_difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    at: str = field(default_factory=utc_now)
    by: str = field(default_factory=user_at_host)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def numbers(self) -> dict[str, Any]:
        """Return the numbers of the comparison; empty for a decision without one."""
        return {name: value for name, value in asdict(self).items() if name in NUMBERS and value is not None}
