"""What is on storage: objects, tables, tokens, answers, run records, the lease."""
