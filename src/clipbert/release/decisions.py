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


def new_id() -> str:
    """Return the id of a new decision."""
    return uuid.uuid4().hex


def user_at_host() -> str:
    """Return USER@HOST of this process."""
    return f"{user_name()}@{platform.node()}"


# pending: passed the gate, a person has to approve it. declined: a person said no.
Outcome = Literal["promoted", "rejected", "unchanged", "rolled_back", "pending", "declined"]


@dataclass(frozen=True)
class Approval:
    """Answer of a person about a candidate that passed the gate.

    Attributes:
        approved: whether it may be promoted.
        by: the person's name.
        note: their note.
        pending: the id of the pending decision that they saw; None: the last one.
    """

    approved: bool
    by: str
    note: str = ""
    pending: str | None = None


@dataclass(frozen=True)
class Decision:
    """A decision about a version.

    The numbers are those of the main metric: of the mean score of the test items as scores from 0 to 1, of another
    metric in its unit.
    """

    task: str
    name: str  # of the registered model
    decision: Outcome
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
    metric: str | None = None  # the main metric
    approved_by: str | None = None  # the person who approved or declined it
    note: str | None = None  # of that person
    verdict: dict[str, Any] | None = None  # of the gate, see `release.verdict`
    at: str = field(default_factory=utc_now)
    by: str = field(default_factory=user_at_host)
    id: str = field(default_factory=new_id)

    def numbers(self) -> dict[str, Any]:
        """Return the numbers of the comparison; empty for a decision without one."""
        return {name: value for name, value in asdict(self).items() if name in NUMBERS and value is not None}
