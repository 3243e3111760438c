"""The stages of a run called one after the other in one process: what `bench pipeline` holds a run on Ray against.

`python -m jobs.bench.plain_loop JOB.json` prints the CPU seconds of a clip, the first one apart, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from flashvid.models import load_model, load_preprocessor
from pipeline.config import JobConfig
from pipeline.decoding import decode_clip
from pipeline.job_inputs import read_inputs
from pipeline.keys import content_key
from pipeline.stages.encode import thumbnails
from pipeline.storage import Storage
from pipeline.token_store import ClipOrigin, TokenStore


def run_loop(job: JobConfig) -> float:
    """Answer a job's questions about whole local videos; mean CPU seconds of a clip behind the first.

    Loading, and what happens once only, is behind when the first clip is done.
    """
    inputs, name = read_inputs(job), job.model.name
    vision, language = load_model(name, part="vision"), load_model(name, part="language")
    preprocessor = load_preprocessor(name)
    store = TokenStore(Storage(job.output), "0" * 16, job.cache_dtype)
    questions = [question.template for question in inputs.questions.common]
    rows: list[dict[str, Any]] = []
    begun = 0.0
    for video, source in zip(inputs.videos, inputs.sources, strict=True):
        decoded = decode_clip(
            str(video.video_path),
            job.sampling,
            None,
            None,
            transform_for=lambda num_frames: preprocessor.for_video(num_frames).resize,
        )
        visual = vision.encode(decoded.frames, decoded.frame_timestamps)
        key = content_key(source.source_id, None, None)
        origin = ClipOrigin(key, video.video_id, source.source_id, None, None)
        pictures = thumbnails(decoded.frames)
        store.commit(key, vision.compress(visual, job.compression), origin, thumbnails=pictures, run_id="loop")
        answers = language.answer(store.read(key), questions, job.generation, pruning=job.inner_pruning)
        rows += [{"video_id": video.video_id, "response": answer.response} for answer in answers]
        begun = begun or time.process_time()
    pq.write_table(pa.Table.from_pylist(rows), Path(job.output) / "answers.parquet")
    return (time.process_time() - begun) / (len(inputs.videos) - 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run_loop(JobConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))))
