"""Tests of `pipeline.care`."""
