"""Maintains an output: export, verify, gc, forget, status."""
