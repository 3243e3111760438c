"""Executes one run: the Ray graph, the committer, metrics, log and summary."""
