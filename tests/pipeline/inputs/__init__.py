"""Tests of `pipeline.inputs`."""
