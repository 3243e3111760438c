"""Behaviour asserted against independent oracles; `tests.oracles.reference` finds the published method's vectors."""
