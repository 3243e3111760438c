"""Decides what a run has to do: a pure plan, and the planner, probe and preview that use it."""
