"""Everything that needs a GPU, in one command: tests, steps, loader, trainings, evaluation, torch.compile.

    scripts/gpu.sh                        # or make gpu; 8 minutes at most, one table, artifacts/gpu/gpu.json
    scripts/gpu.sh                        # again: resumes, without what is finished
    scripts/gpu.sh --only train_step base --again
    scripts/gpu.sh --dry-run              # every part at tiny sizes, without a GPU

Each part is a process with its own time limit; one that fails or takes too long does not stop the others. The result
of each is written at once. A rerun skips the parts that ended well with the same code, GPU and torch.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.report import print_table
from benchmarks.gpu.runner import Kit

BUDGET_S, DRY_BUDGET_S = 480.0, 1800.0


def main() -> None:
    """Run the parts and print the table; exits with 1 where a part failed."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="scripts/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="parts; default: all")
    parser.add_argument("--again", action="store_true", help="run finished parts again")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, also on a CPU")
    parser.add_argument("--work", type=Path, default=Path("artifacts/gpu"), help="data and results")
    parser.add_argument("--budget", type=float, help=f"seconds in all, {BUDGET_S:g}; the rest waits for a rerun")
    parser.add_argument("--list", action="store_true", help="print the parts and their time limits")
    options = parser.parse_args()
    if options.list:
        for part in PARTS:
            print(f"{part.name:<18}{part.limit_s:>5.0f} s  {part.title}")
        return
    os.environ["PYTHONUNBUFFERED"] = "1"
    # as Ctrl-C does, so that the part in progress is ended too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    budget = options.budget or (DRY_BUDGET_S if options.dry_run else BUDGET_S)
    kit = Kit(options.work.resolve(), options.dry_run, started + budget)
    parts = [part for part in PARTS if options.only is None or part.name in options.only]
    results = kit.run(parts, options.again)
    print_table(results)
    print(f"{kit.file}: the same as JSON; the output of each part is in {kit.logs}")
    failed = [part["name"] for part in results["parts"] if part["status"] != "ok"]
    if failed:
        print(f"not finished: {', '.join(failed)}. Rerun the command to continue with these.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
