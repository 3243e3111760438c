"""Video files to frames: what a file's packets say, two decoders, and a process that may die of a file.

`demux` reads packets without decoding them, `packet_index` holds what they say and which decoder is exact,
`decord_reader` and `pyav_reader` fetch frames, `frame_blocks` chooses between them, and `process` lets all that happen
in a process of its own (`child`).
"""
