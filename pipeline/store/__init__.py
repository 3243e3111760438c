"""Reads and writes everything on storage: objects, tables, tokens, answers, run records, the lease."""
