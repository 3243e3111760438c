"""The stages of a run called one after the other in one process, which `bench pipeline` compares a run on Ray with.

`python -m jobs.lab.plain_loop JOB.json CLIPS` answers CLIPS clips at a time, and prints the CPU seconds of a clip,
without the first batch, as JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from flashvid.models import ClipQuestions, load_model, load_preprocessor
from pipeline.clip import ClipIdentity
from pipeline.config import JobConfig
from pipeline.inputs.job_inputs import read_tables
from pipeline.inputs.sources import stat_sources
from pipeline.stages.encode import thumbnails
from pipeline.store.keys import content_key
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from pipeline.video.clip_frames import decode_clip


def run_loop(job: JobConfig, together: int = 1) -> float:
    """Answer a job's questions about whole local videos; return the mean CPU seconds of a clip.

    The first batch does not count: it includes loading and other one-time costs.

    Args:
        job: The job.
        together: Clips of a batch, as a run's answer actors get them.

    Raises:
        ValueError: there are no videos after the first batch.
    """
    table, asked_of_all = read_tables(job)
    videos, name = list(table), job.model.name
    sources = stat_sources(videos, source_id_column=job.source_id_column, storage_options=job.storage_options)
    if len(videos) <= together:
        raise ValueError(f"{len(videos)} videos, of which the first {together} are not counted")
    vision, language = load_model(name, part="vision"), load_model(name, part="language")
    preprocessor = load_preprocessor(name)
    store = TokenStore(Storage(job.output), "0" * 16, job.cache_dtype)
    questions = [question.template for question in asked_of_all.common]
    rows: list[dict[str, Any]] = []
    waiting: list[tuple[str | None, ClipQuestions]] = []
    begun = 0.0
    for number, (video, source) in enumerate(zip(videos, sources, strict=True), 1):
        decoded = decode_clip(
            str(video.video_path),
            job.sampling,
            None,
            None,
            transform_for=lambda num_frames: preprocessor.for_video(num_frames).resize,
        )
        visual = vision.encode(decoded.frames, decoded.frame_timestamps)
        key = content_key(source.source_id, None, None)
        origin = ClipIdentity(key, video.video_id, source.source_id, None, None)
        pictures = thumbnails(decoded.frames)
        store.commit(key, vision.compress(visual, job.compression), origin, thumbnails=pictures, run_id="loop")
        waiting.append((video.video_id, ClipQuestions(store.read(key), questions)))
        if len(waiting) == together or number == len(videos):
            asked = [clip for _, clip in waiting]
            found = language.answer_many(asked, job.generation, pruning=job.inner_pruning)
            for (video_id, _), answers in zip(waiting, found, strict=True):
                rows += [{"video_id": video_id, "response": answer.response} for answer in answers]
            waiting.clear()
            begun = begun or time.process_time()
    folder = Path(job.output) / "answers"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-loop.parquet")
    return (time.process_time() - begun) / (len(videos) - together)


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked_of = JobConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(run_loop(asked_of, int(sys.argv[2]))))
