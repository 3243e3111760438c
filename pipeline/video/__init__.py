"""Decodes video files to frames.

`demux` reads packets, without decoding them, into a `packet_index`. From that index, `reader_choice` chooses
`decord_reader` or `pyav_reader`. `frame_blocks` yields the sampled frames. `process` runs it in a child process
(`child`), so that a damaged file can crash only that process.
"""
