"""Where an arm of `bench answers` spends its time: `python -m jobs.lab.arm_profile D 16`.

Functions by Python's profiler, which makes short ones look longer than they are, and operations by torch's. What
neither sees, py-spy does: `py-spy record --native --output d.svg -- python -m jobs.lab.arm_profile D 16`.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import profile

from jobs.lab.answers import Scope, arm_actions
from jobs.lab.answers_arms import QUESTIONS, Bench
from jobs.lab.answers_model import BENCH

_FUNCTIONS, _OPERATIONS = 40, 20
# Paths of what is ours, as the profiler's filter wants them.
_OURS = r"/(flashvid|pipeline|jobs)/"


def profile_arm(bench: Bench, arm: str, number: int) -> str:
    """Two tables of one arm asking so many questions: our functions, then PyTorch's operations.

    Args:
        bench: What is asked about what.
        arm: Of `answers.ARMS`.
        number: Of the questions.
    """
    action = arm_actions(bench, QUESTIONS[:number])[arm]
    # The first time some things are made that last.
    action()
    functions, text = cProfile.Profile(), io.StringIO()
    functions.runcall(action)
    pstats.Stats(functions, stream=text).sort_stats("cumulative").print_stats(_OURS, _FUNCTIONS)
    with profile() as operations:
        action()
    text.write(operations.key_averages().table(sort_by="self_cpu_time_total", row_limit=_OPERATIONS))
    return text.getvalue()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="flashvid-bench-") as folder:
        print(profile_arm(Bench(Path(folder), BENCH, Scope().num_frames), sys.argv[1], int(sys.argv[2])))
