"""Compression of visual tokens: FlashVID, its parts, and its rivals under one interface."""
