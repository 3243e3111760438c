"""Looking after an output: export, verify, gc, forget, status."""
