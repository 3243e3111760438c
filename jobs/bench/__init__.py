"""Benchmarks: commands that measure what the project claims, beside its rivals."""
