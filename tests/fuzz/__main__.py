"""Run `make fuzz` and print a report.

    python -m tests.fuzz [--minutes 10] [--seed 1] [KIND ...]

Shares the time among the kinds. Prints for each how many examples were tried and the smallest one of each finding, and
exits with 1 if there is any. A finding becomes a seed of its kind, which `make test` tries each time.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

import hypothesis
from hypothesis import HealthCheck, settings

from tests.fuzz.kind import Kind
from tests.fuzz.kinds import KINDS

_EXAMPLES_AT_ONCE = 200
# The end of a traceback: where it was raised, the error, the smallest example.
_LINES_SHOWN = 25


def fuzz(kind: Kind, seconds: float, seed: int) -> tuple[int, list[str]]:
    """Try examples for some seconds; return their number and a traceback for each batch with a finding."""
    begun, tried, findings = time.monotonic(), 0, list[str]()

    def counted(example: object) -> None:
        nonlocal tried
        tried += 1
        kind.check(example)

    while time.monotonic() - begun < seconds and len(findings) < 3:
        test = hypothesis.seed(seed + tried)(
            settings(
                max_examples=_EXAMPLES_AT_ONCE, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )(hypothesis.given(kind.strategy)(counted))
        )
        try:
            test()
        except Exception:  # noqa: BLE001 - a finding
            lines = traceback.format_exc().splitlines()
            findings.append("\n".join(lines[-_LINES_SHOWN:]))
    return tried, findings


def main() -> int:
    """Run, print a report; 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: all of {', '.join(KINDS)}")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chosen = asked.kinds or list(KINDS)
    # Starting and shrinking take some of the time.
    seconds = 0.9 * 60 * asked.minutes / len(chosen)
    count = 0
    for name in chosen:
        tried, findings = fuzz(KINDS[name], seconds, asked.seed)
        count += len(findings)
        print(f"{name}: {tried} examples, {len(findings)} findings", flush=True)
        for finding in findings:
            print(finding)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
