"""Runs a job as a distributed Ray flow: planning, storage, video decoding, actors, and commits."""
