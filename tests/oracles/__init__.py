"""Naive implementations and reference vectors that results are compared with."""
