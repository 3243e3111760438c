"""Tests of `pipeline.video`."""
