"""Train the `tiny` model from nothing, in stages that can be stopped at any time and resumed.

python -m jobs.lab.tiny_model.train --work-dir DIR [--stage vision|cache|language|all] [--processes 2] [--max-minutes M]

The model directory is written to DIR/model at the end, and by `--stage export` at any time before.
"""

import argparse
import math
import multiprocessing
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed

from jobs.lab.tiny_model.checkpoint import export, freeze_vision
from jobs.lab.tiny_model.feature_cache import FeatureCache, shards
from jobs.lab.tiny_model.language_stage import LanguageStage
from jobs.lab.tiny_model.loop import Schedule, Worker, train
from jobs.lab.tiny_model.progress import RunFolder
from jobs.lab.tiny_model.vision_stage import VisionStage

STAGES = ("vision", "cache", "language", "export")
VISION = Schedule(steps=1000, peak=2e-3, warmup=50)
LANGUAGE = Schedule(steps=6000, peak=2e-3, warmup=200, decay_from=3200, check_every=400)


def main() -> int:
    """Run the requested stages; exit with 3 if time ran out before they were finished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work-dir", type=Path, required=True, help="where states, logs and cached features go")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="of one thread each")
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="stop after so long, to be resumed")
    options = parser.parse_args()
    deadline = time.time() + 60 * options.max_minutes
    for stage in STAGES if options.stage == "all" else (options.stage,):
        if not _run_together(stage, options.work_dir, options.processes, deadline):
            return 3
    return 0


def _run_together(stage: str, work_dir: Path, number: int, deadline: float) -> bool:
    """Run a stage in one or two processes; return whether it is finished."""
    if stage == "export":
        step = export(_frozen(work_dir), work_dir / "language.pt", work_dir / "model")
        print(f"{work_dir / 'model'}: {step} of {LANGUAGE.steps} steps")
        return True
    if number == 1:
        return _run(stage, work_dir, Worker(), deadline)
    with TemporaryDirectory(prefix="tiny-model-") as meeting:
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=_run_one, args=(rank, stage, work_dir, number, deadline, meeting), daemon=True)
            for rank in range(number)
        ]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.5)
            # If one process died, the other would wait for it for ever.
            if any(worker.exitcode for worker in workers):
                for worker in workers:
                    worker.kill()
                raise RuntimeError(f"a process of the {stage} stage died; what it said is above")
        return (Path(meeting) / "finished").exists()


def _run_one(rank: int, stage: str, work_dir: Path, number: int, deadline: float, meeting: str) -> None:
    rendezvous = f"file://{meeting}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=number)
    finished = torch.tensor([float(_run(stage, work_dir, Worker(rank, number), deadline))])
    distributed.all_reduce(finished)
    if rank == 0 and int(finished) == number:
        (Path(meeting) / "finished").touch()
    distributed.destroy_process_group()


def _run(name: str, work_dir: Path, worker: Worker, deadline: float) -> bool:
    # Two processes of one thread are far faster than one of two: the matrices are small.
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    folder = RunFolder(work_dir, name)
    cache = FeatureCache(work_dir / "features")
    vision = VisionStage(VISION)
    if name == "vision":
        finished = train(vision, folder, worker, max_seconds=deadline - time.time())
        if finished and worker.rank == 0:
            freeze_vision(vision, _frozen(work_dir))
        return finished
    vision.module.load_state_dict(torch.load(_frozen(work_dir), weights_only=True))
    if name == "cache":
        # Held-out clips first, then short ones: with those, training could begin.
        wanted = [*shards("held-out"), *shards("train")]
        return cache.fill(vision.tower, wanted[worker.rank :: worker.number], deadline)
    stage = LanguageStage(LANGUAGE, cache, vision.heads)
    return train(stage, folder, worker, max_seconds=deadline - time.time())


def _frozen(work_dir: Path) -> Path:
    return work_dir / "vision_frozen.pt"


if __name__ == "__main__":
    sys.exit(main())
