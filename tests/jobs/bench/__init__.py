"""Tests of `jobs.bench`."""
