"""How the project's own claims are measured; not part of the wheel."""
