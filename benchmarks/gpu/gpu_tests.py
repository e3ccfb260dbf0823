"""Run tests/gpu and write how many passed, failed and were skipped.

python -m benchmarks.gpu.gpu_tests --json tests.json
"""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


class Outcomes:
    """Plugin of pytest that counts the outcomes of tests and names what failed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test by its call, or by the phase before or after it that did not pass."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        """Count a file that cannot be imported as a failure."""
        if report.failed:
            self.counts["failed"] += 1
            self.failed.append(report.nodeid)


def main() -> None:
    """Run the tests; exits with 0 also where some fail, which the file says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        import pytest
    except ModuleNotFoundError as error:
        needed = "python3 -m pip install pytest pytest-timeout pytest-xdist"
        raise SystemExit(f"tests/gpu cannot run: {error.name} is not installed: {needed}") from None
    # no other plugins, of which a machine may hold any
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    outcomes = Outcomes()
    arguments = [str(REPOSITORY / "tests" / "gpu"), "-q", "--tb=short", "-p", "no:cacheprovider"]
    arguments += ["-p", "xdist.plugin", "-p", "pytest_timeout"]
    code = pytest.main(["--rootdir", str(REPOSITORY), "-c", str(REPOSITORY / "pyproject.toml"), *arguments], [outcomes])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        sys.exit(int(code))
    result = {name: outcomes.counts[name] for name in ("passed", "failed", "skipped")} | {"names": outcomes.failed}
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
