"""Behaviour asserted against independent oracles; `tests.reference` finds the published method's vectors."""
