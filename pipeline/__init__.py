"""The distributed flow: planning, storage, decoding, actors, and the Ray graph that joins them."""
