"""Tests of `jobs.lab`."""
