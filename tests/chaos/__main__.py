"""Run `make chaos` and print a report.

    python -m tests.chaos --clips 200 --kills 30 --rounds 1 --seed 1

Prints each fault when it has been carried out, and exits with 1 unless the final tables are those of an undisturbed
run: nothing lost, nothing silently other, no failures but those of the videos that are broken on purpose, and nothing
twice but what docs/guarantees.md names and `verify` finds.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.machine import on_one_machine
from tests.chaos.network import on_a_bad_network
from tests.support.object_stores import credentials, seaweed_server


def main() -> int:
    """Run, print a report; 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200, help="videos of the run on S3")
    parser.add_argument("--kills", type=int, default=30, help="processes to kill there; 0: none, and no run on S3")
    parser.add_argument("--rounds", type=int, default=1, help="times for each fault of one machine")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    begun, num_faults, problems = time.monotonic(), 0, list[str]()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        if asked.rounds:
            (here := Path(name) / "machine").mkdir()
            machine = on_one_machine(here, rounds=asked.rounds, seed=asked.seed)
            num_faults += len(machine.faults)
            problems += machine.problems
        if asked.kills:
            with credentials():
                (folder := Path(name) / "network").mkdir()
                (folder / "store").mkdir()
                with seaweed_server(folder / "store") as store:
                    outcome = on_a_bad_network(
                        folder, store, num_clips=asked.clips, num_kills=asked.kills, seed=asked.seed
                    )
            print(f"{len(outcome.faults)} kills, {outcome.runs} runs, {outcome.seconds:.0f} s")
            num_faults += len(outcome.faults)
            problems += outcome.problems
    print(f"seed {asked.seed}: {num_faults} faults in {time.monotonic() - begun:.0f} s")
    for problem in problems:
        print(problem)
    print("FAILED" if problems else "the tables are those of the undisturbed runs")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
