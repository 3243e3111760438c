"""The paper's five benchmarks: their published annotations as our tables, counted as lmms-eval counts them.

Rules of prompts, options and letters are those of lmms-eval 0.7.3 (PyPI); every converter names their file.
"""

from flashvid.errors import ConfigurationError
from jobs.datasets import egoschema, long_video_bench, mlvu, mvbench, video_mme
from jobs.datasets.converter import Benchmark

_ALL = (
    Benchmark("video_mme", "VideoMME", video_mme, "ranked-of-four", ("duration", "domain", "category")),
    Benchmark("egoschema", "EgoSchema", egoschema, "earliest", ()),
    Benchmark("long_video_bench", "LongVideoBench", long_video_bench, "first", ("duration_group", "category"), 32),
    Benchmark("mvbench", "MVBench", mvbench, "any-case", ("category",)),
    Benchmark("mlvu", "MLVU", mlvu, "ranked-of-four", ("category",)),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def benchmark_named(name: str) -> Benchmark:
    """Return the benchmark of that name. Raises ConfigurationError if there is none."""
    if name not in BENCHMARKS:
        raise ConfigurationError(f"benchmark {name!r} is not one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
