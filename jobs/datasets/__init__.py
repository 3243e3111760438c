"""The paper's five benchmarks: their published annotations as our tables, counted as lmms-eval counts them.

Rules of prompts, options and letters are those of lmms-eval 0.7.3 (PyPI); every converter names the file they are in.
"""

from __future__ import annotations

from flashvid.errors import ConfigurationError
from jobs.datasets.converter import Benchmark
from jobs.datasets.egoschema import EGOSCHEMA
from jobs.datasets.long_video_bench import LONG_VIDEO_BENCH
from jobs.datasets.mlvu import MLVU
from jobs.datasets.mvbench import MVBENCH
from jobs.datasets.video_mme import VIDEO_MME

BENCHMARKS = (VIDEO_MME, EGOSCHEMA, LONG_VIDEO_BENCH, MVBENCH, MLVU)


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of that name. Raises ConfigurationError if there is none."""
    for benchmark in BENCHMARKS:
        if benchmark.name == name:
            return benchmark
    raise ConfigurationError(f"benchmark {name!r} is none of {', '.join(each.name for each in BENCHMARKS)}")
