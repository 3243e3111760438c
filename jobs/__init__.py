"""The user's side: the job file, the command line, reports, evaluation and benchmarks."""
