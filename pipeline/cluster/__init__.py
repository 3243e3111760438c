"""Connects a run to its Ray cluster, sizes the actor pools, monitors the actors, and finds the model on a node."""
