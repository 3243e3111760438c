"""What a run has to do: a pure plan, and the planner, probe and preview around it."""
