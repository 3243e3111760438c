"""Benchmarks of this machine: video decoding, the cache, compression, and a run."""
