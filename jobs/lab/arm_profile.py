"""Where an arm of `bench answers` spends its time: `python -m jobs.lab.arm_profile D 16`.

Python's profiler shows functions, and makes short ones look longer than they are; torch's shows operations. py-spy
shows what neither sees: `py-spy record --native --output d.svg -- python -m jobs.lab.arm_profile D 16`.
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
# Paths of our packages, for the profiler's filter.
_OURS = r"/(flashvid|pipeline|jobs)/"


def profile_arm(bench: Bench, arm: str, number: int) -> str:
    """Return two tables of one arm: our functions, then PyTorch's operations.

    Args:
        bench: The model and the clip.
        arm: One of `answers.ARMS`.
        number: Number of questions.
    """
    action = arm_actions(bench, QUESTIONS[:number])[arm]
    # The first run creates objects that later runs reuse.
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
