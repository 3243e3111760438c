"""Define the Arrow schema of every table that the pipeline writes. docs/tables.md describes the columns."""

import pyarrow as pa

# The fields of `ClipIdentity` in pipeline/clip.py.
_CLIP = (
    ("clip_id", pa.string()),
    ("video_id", pa.string()),
    ("source_id", pa.string()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
)
PROBES = pa.schema(
    [
        ("source_id", pa.string()),
        ("video_path", pa.string()),
        ("size_bytes", pa.int64()),
        ("duration_s", pa.float64()),
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("decoder", pa.string()),
        ("path_hash", pa.string()),
        ("decoder_reason", pa.string()),
    ]
)

TOKENS = pa.schema(
    [
        *_CLIP,
        ("frame_timestamps", pa.list_(pa.float64())),
        ("grid_thw", pa.list_(pa.int64())),
        ("segment_lengths", pa.list_(pa.int64())),
        ("num_tokens", pa.int64()),
        ("hidden_size", pa.int64()),
        ("dtype", pa.string()),
        ("indices", pa.list_(pa.int64())),
        ("assignment", pa.list_(pa.int64())),
        ("tokens", pa.large_binary()),
        ("scales", pa.list_(pa.float32())),
        ("deepstack", pa.list_(pa.large_binary())),
        ("deepstack_scales", pa.list_(pa.list_(pa.float32()))),
        ("thumbnails", pa.list_(pa.binary())),
        ("run_id", pa.string()),
    ]
)

ANSWERS = pa.schema(
    [
        *_CLIP,
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("question_hash", pa.string()),
        ("options", pa.list_(pa.string())),
        ("expected_answer", pa.string()),
        ("response", pa.string()),
        ("finish_reason", pa.string()),
        ("num_visual_tokens", pa.int64()),
        ("num_prompt_tokens", pa.int64()),
        ("num_generated_tokens", pa.int64()),
        ("option_scores", pa.list_(pa.float64())),
        ("answer_seconds", pa.float64()),
        ("attempt", pa.int32()),
        ("run_id", pa.string()),
        ("epoch", pa.int64()),
    ]
)

FAILURES = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("video_path", pa.string()),
        ("question_id", pa.string()),
        ("stage", pa.string()),
        ("error_type", pa.string()),
        ("error_kind", pa.string()),
        ("error_message", pa.string()),
        ("traceback", pa.string()),
        ("attempt", pa.int32()),
        ("run_id", pa.string()),
        ("question_hash", pa.string()),
        ("source_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)

# Columns added within format 1. Earlier parts lack them, and readers treat them as null (docs/compatibility.md).
LATER_COLUMNS = {
    ANSWERS: frozenset({"epoch"}),
    FAILURES: frozenset({"question_hash", "source_id", "start_s", "end_s"}),
    PROBES: frozenset({"path_hash", "decoder_reason"}),
    TOKENS: frozenset({"scales", "deepstack", "deepstack_scales"}),
}
