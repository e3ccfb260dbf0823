"""Verdict of the promotion gate: each check of the policy with its numbers, as values that JSON has."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MAX_TAG = 1000  # characters of a tag with a check


@dataclass(frozen=True)
class Check:
    """One rule of the policy.

    Attributes:
        name: of the rule, as part of tags: "main_metric", "guard.r5", "limit.max_model_mb", "lineage.code".
        title: what is checked, for a reader.
        outcome: "skipped" where the rule does not apply; the reason is in `found`.
        found: what was found, with its numbers.
        required: what the policy requires.
        numbers: the numbers in `found`.
        remedy: what to do if it failed.
    """

    name: str
    title: str
    outcome: Literal["passed", "failed", "skipped"]
    found: str
    required: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""

    @property
    def line(self) -> str:
        """The check in one line."""
        return f"{self.title}: {self.found} (required: {self.required})"


@dataclass(frozen=True)
class Headline:
    """A metric of the candidate and the champion, as a reader sees it; empty where it is not known."""

    name: str
    candidate: str
    champion: str
    difference: str
    interval: str


@dataclass(frozen=True)
class Model:
    """A compared model in the registry.

    Attributes:
        predictions: SHA-256 of its registered predictions.
        facts: what else is known of it, by name: registered, seed, commit, time per item, size.
    """

    version: str
    run_id: str
    experiment_id: str
    predictions: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        against: what the candidate was compared with, in words.
        policy: the fields of the policy.
        policy_sha256: of mlflow/promotion.yaml; empty where the policy did not come from the file.
        confidence: of the intervals of the headlines, in percent.
    """

    against: str
    candidate: Model
    champion: Model | None
    headlines: Sequence[Headline]
    checks: Sequence[Check]
    policy: Mapping[str, Any]
    policy_sha256: str
    confidence: str

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome == "failed"]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """Return the verdict for the ledger and the decision file."""
        return {**asdict(self), "passed": self.passed}


def check_tags(verdict: Mapping[str, Any]) -> dict[str, str]:
    """Return a tag for each check of a verdict that was read from the ledger: "passed: +30.0 points ..."."""
    checks = verdict["checks"]
    found = {
        f"check.{check['name']}": f"{check['outcome']}: {check['found']} (required: {check['required']})"[:MAX_TAG]
        for check in checks
    }
    passed = sum(check["outcome"] == "passed" for check in checks)
    failed = sum(check["outcome"] == "failed" for check in checks)
    found["checks"] = f"{passed} passed, {failed} failed, {len(checks) - passed - failed} not applicable"
    return found | {"policy_sha256": verdict["policy_sha256"] or "none"}
