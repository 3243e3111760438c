"""Video files to frames.

`demux` reads packets without decoding them into a `packet_index`, `reader_choice` picks `decord_reader` or
`pyav_reader` by it, `frame_blocks` yields the sampled frames, and `process` runs that in a child process (`child`),
which a bad file may crash.
"""
