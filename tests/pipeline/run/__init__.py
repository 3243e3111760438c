"""Tests of `pipeline.run`."""
