"""Lineage of a version as `clipbert lineage` shows it: version, run, code, data, parameters, evaluation, decisions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from clipbert.durations import format_duration
from clipbert.evaluation.conditions import from_tags
from clipbert.evaluation.report.origin import changed_parameters
from clipbert.release.aliases import aliases
from clipbert.release.derived import effective_decisions
from clipbert.release.ledger import Ledger
from clipbert.release.lineage import LineageFact, lineage_facts
from clipbert.release.lineage_record import StoredLineage, experiment_of, read_lineage
from clipbert.release.lock_file import LOCK
from clipbert.release.provenance import NONE
from clipbert.release.store import Store, store_errors
from clipbert.release.versions import METRIC

MOST_METRICS = 5


@dataclass(frozen=True)
class LineageSummary:
    """What is known about a version.

    Attributes:
        stored: None for a version that an older version of clipbert registered.
        values: everything, as `clipbert lineage --json` prints it.
    """

    stored: StoredLineage | None
    facts: dict[str, LineageFact]
    values: dict[str, Any]


def summarize_lineage(store: Store, task: str, version: Any, run: Any, defaults: Mapping[str, Any]) -> LineageSummary:
    """Return what the registry, the run and the ledger know about a version.

    Args:
        version: MLflow's model version.
        run: MLflow's run of it.
        defaults: the default parameters of the task, by dotted name.

    Raises:
        ClipBertError: the store cannot be used, or a stored file is missing or damaged.
    """
    facts = lineage_facts(store, version)
    with store_errors(store.uri, "cannot be read"):
        stored = read_lineage(store, version)
        known = aliases(store, version.name)
        experiment = None if stored is None else experiment_of(store, stored.lineage)
    tags, number = version.tags, str(version.version)
    run_tags = {key.removeprefix("clipbert."): value for key, value in run.data.tags.items()}
    with Ledger(store.root) as ledger:
        made = [
            decision
            for decision in effective_decisions(ledger.entries(task), name=version.name)
            if decision.version == number and decision.digest == tags.get("digest", "")
        ]
    values: dict[str, Any] = {
        "version": {
            "name": version.name,
            "version": number,
            "task": task,
            "aliases": sorted(alias for alias, value in known.items() if value == number),
            "digest": tags.get("digest"),
            "registered": _time(version.creation_timestamp),
        },
        "run": _run(run, run_tags),
        "code": _code(stored, run_tags, experiment),
        "data": _data(stored, tags),
        "parameters": {
            "changed": {name: list(pair) for name, pair in changed_parameters(run.data.params, defaults).items()},
            "all": dict(run.data.params),
        },
        "environment": {} if stored is None else stored.source.environment,
        "validation": None if stored is None else stored.lineage.validation,
        "evaluation": {
            "metrics": {
                key.removeprefix(METRIC): float(value) for key, value in tags.items() if key.startswith(METRIC)
            },
            "conditions": from_tags(task, tags),
            "data_digest": tags.get("evaluation.data_digest"),
            "predictions": tags.get("evaluation.predictions"),
        },
        "decisions": [asdict(decision) for decision in made],
        "flow_run": _recorded(NONE if stored is None else stored.lineage.flow_run),
        "facts": {name: {"holds": fact.holds, "reason": fact.reason} for name, fact in facts.items()},
    }
    return LineageSummary(stored, facts, values)


def lineage_rows(summary: LineageSummary) -> list[tuple[str, list[str]]]:
    """Return the summary as rows for a reader: a title and lines."""
    values = summary.values
    version, run, code, data = values["version"], values["run"], values["code"], values["data"]
    named = f" ({', '.join(version['aliases'])})" if version["aliases"] else ""
    rows = [
        ("version", [f"{version['name']} {version['version']}{named}, registered {version['registered']}"]),
        ("digest", [version["digest"] or NONE]),
        ("run", _run_lines(run)),
        ("code", _code_lines(code)),
        (LOCK, [_lock_line(summary)]),
        ("data", _data_lines(data)),
        ("parameters", _parameter_lines(values["parameters"]["changed"])),
        ("validation", [_fact_line(summary.facts["data_validated"]), _fact_line(summary.facts["no_leakage"])]),
        ("evaluation", _evaluation_lines(values["evaluation"])),
        ("decision", _decision_lines(values["decisions"], version["task"])),
    ]
    if values["environment"]:
        rows.insert(7, ("environment", [", ".join(f"{key} {value}" for key, value in values["environment"].items())]))
    rows.append(("Prefect run", [values["flow_run"] or "none: the stages ran without a flow"]))
    return rows


def _run(run: Any, tags: Mapping[str, str]) -> dict[str, Any]:
    start, end = run.info.start_time, run.info.end_time
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "started": _time(start),
        "seconds": (end - start) / 1000 if end else None,
        "status": run.info.status,
        "restored_from": tags.get("restored_from"),
        **{name: _recorded(tags.get(name)) for name in ("command", "user", "host", "device")},
    }


def _code(stored: StoredLineage | None, tags: Mapping[str, str], experiment: str | None) -> dict[str, Any]:
    if stored is None:
        dirty = tags.get("git_dirty") == "true"
        return {"commit": _recorded(tags.get("git_commit")), "dirty": dirty, "clipbert": tags.get("version")}
    source = stored.source
    return {
        "commit": _recorded(source.commit),
        "tree": _recorded(source.tree),
        "dirty": source.is_dirty,
        "patch": _recorded(source.patch),
        "omitted": source.omitted,
        "stored_at": stored.lineage.source_from,
        "experiment": experiment,
        "clipbert": tags.get("version"),
        "run_id": stored.lineage.run_id,
    }


def _data(stored: StoredLineage | None, tags: Mapping[str, str]) -> dict[str, Any]:
    if stored is None:
        return {"digest": _recorded(tags.get("data_digest")), "bytes": None, "files": None, "splits": {}}
    entry = stored.lineage.data
    return {
        "digest": entry.get("md5") or _recorded(tags.get("data_digest")),
        "bytes": entry.get("size"),
        "files": entry.get("nfiles"),
        "splits": stored.lineage.sizes,
    }


def _run_lines(run: Mapping[str, Any]) -> list[str]:
    lines = [f"{run['name']} ({run['id']})"]
    took = f", {format_duration(run['seconds'])}" if run["seconds"] else ""
    who = " ".join(filter(None, (run["user"] and f"by {run['user']}", run["host"] and f"on {run['host']}")))
    lines.append(", ".join(filter(None, (f"{run['status'].lower()} {run['started']}{took}", who, run["device"]))))
    if run["command"]:
        lines.append(run["command"])
    if run["restored_from"]:
        lines.append("trained elsewhere; this run was made from artifacts/runs")
    return lines


def _code_lines(code: Mapping[str, Any]) -> list[str]:
    if code["commit"] is None:
        return ["none: not in a git repository"]
    lines = [f"commit {code['commit']}"]
    if code.get("experiment"):
        lines.append(f"DVC experiment {code['experiment']}")
    if code["dirty"]:
        patch = f": patch {code['patch'][:12]}..." if code.get("patch") else ""
        lines.append(f"with uncommitted changes{patch}")
    lines += [f"not stored: {name} ({reason})" for name, reason in code.get("omitted", {}).items()]
    if code.get("stored_at") == "registration":
        lines.append("as it was at the registration")
    return lines


def _lock_line(summary: LineageSummary) -> str:
    if summary.stored is None:
        return summary.facts["lock_committed"].reason
    lineage = summary.stored.lineage
    stored = f"{len(lineage.stages)} stages, stored as {lineage.lock[:12]}...; " if lineage.lock != NONE else ""
    return stored + summary.facts["lock_committed"].reason


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    if data["digest"] is None:
        return ["none: data/ is not tracked by DVC"]
    size = f"{data['bytes'] / 1e6:,.1f} MB in {data['files']:,} files" if data["bytes"] and data["files"] else ""
    lines = [", ".join(filter(None, (data["digest"], size)))]
    for kind, splits in data["splits"].items():
        lines.append(f"{kind}: " + ", ".join(f"{split} {count:,}" for split, count in splits.items()))
    return lines


def _parameter_lines(changed: Mapping[str, list[str]]) -> list[str]:
    return [f"{name}: {value} (default {default})" for name, (value, default) in changed.items()] or ["all defaults"]


def _evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    metrics = list(evaluation["metrics"].items())
    shown = [f"{name} {value:.4g}" for name, value in metrics if not name.endswith(("_ci_low", "_ci_high"))]
    more = f", and {len(metrics) - MOST_METRICS} more (--json)" if len(metrics) > MOST_METRICS else ""
    lines = [", ".join(shown[:MOST_METRICS]) + more] if metrics else ["none"]
    if evaluation["predictions"]:
        lines.append(f"predictions {evaluation['predictions'][:12]}... on the data {evaluation['data_digest']}")
    return lines


def _decision_lines(decisions: list[dict[str, Any]], task: str) -> list[str]:
    if not decisions:
        return [f"none yet: `clipbert promote {task}`"]
    return [f"{one['decision'].replace('_', ' ')} {one['at']} by {one['by']}: {one['reason']}" for one in decisions]


def _fact_line(fact: LineageFact) -> str:
    return fact.reason if fact.holds else f"NOT {fact.name.replace('_', ' ')}: {fact.reason}"


def _recorded(value: str | None) -> str | None:
    return None if value in (None, "", NONE) else value


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
