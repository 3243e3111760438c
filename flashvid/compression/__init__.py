"""Compression of visual tokens: FlashVID, its parts, and other published methods under one interface."""
