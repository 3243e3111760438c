"""The paper's five benchmarks: their published annotations as our tables, counted as lmms-eval counts them.

Rules of prompts, options and letters are those of lmms-eval 0.7.3 (PyPI); every converter names their file.
"""

from __future__ import annotations

from flashvid.errors import ConfigurationError
from jobs.datasets import egoschema, long_video_bench, mlvu, mvbench, video_mme
from jobs.datasets.converter import Benchmark

_SHARE = "The share of right answers over all questions."
BENCHMARKS = (
    Benchmark("video_mme", "VideoMME", video_mme.convert, "ranked-of-four", ("duration", "domain", "category"), _SHARE),
    Benchmark(
        "egoschema",
        "EgoSchema",
        egoschema.convert,
        "earliest",
        (),
        "The share of right answers. The published numbers are of all 5,031, which only the authors' server counts; "
        "here it is of the 500 public ones.",
    ),
    Benchmark(
        "long_video_bench",
        "LongVideoBench",
        long_video_bench.convert,
        "first",
        ("duration_group", "category"),
        f"{_SHARE} lmms-eval draws an option where it finds none in a response; here such a response is wrong.",
        max_new_tokens=32,
    ),
    Benchmark(
        "mvbench",
        "MVBench",
        mvbench.convert,
        "any-case",
        ("category",),
        "The mean over the 20 tasks, which have as many questions each.",
    ),
    Benchmark(
        "mlvu",
        "MLVU",
        mlvu.convert,
        "ranked-of-four",
        ("category",),
        "The mean over the seven tasks, however many questions each has.",
    ),
)


def benchmark_named(name: str) -> Benchmark:
    """Return the benchmark of that name. Raises ConfigurationError if there is none."""
    for benchmark in BENCHMARKS:
        if benchmark.name == name:
            return benchmark
    raise ConfigurationError(f"benchmark {name!r} is not one of {', '.join(each.name for each in BENCHMARKS)}")
