"""The Ray cluster of a run: connection, pool sizes, monitor, the model on a node."""
