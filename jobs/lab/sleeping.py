"""A run's graph with stages that only sleep: the cost of distribution when the work itself costs nothing.

It runs in its own process, whose CPU time and memory are then the driver's alone:
`python -m jobs.lab.sleeping '[{"num_clips": 8, ...}, ...]'` runs one graph after the other on one Ray, and prints an
`Asleep` for each as one line of JSON.
"""

import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import ray

from flashvid.engine.constants import GPU_DECODE_ROWS
from jobs.lab.planning import peak_bytes
from pipeline.clip import Clip, ClipMessage
from pipeline.cluster.local_ray import local_ray
from pipeline.cluster.monitor import RunMonitor
from pipeline.cluster.resources import Pool, Pools
from pipeline.config import CommitConfig, JobConfig
from pipeline.inputs import QuestionTable
from pipeline.plan.plan import Plan
from pipeline.plan.planner import RunPlan
from pipeline.run.committer import Committer
from pipeline.run.flow import stream
from pipeline.stages import AnswerStage, Stage, StageSettings
from pipeline.store.context import RunContext
from pipeline.store.fingerprint import Fingerprints
from pipeline.store.keys import digest
from pipeline.store.lease import Lease
from pipeline.store.run_records import new_run_id
from pipeline.store.storage import Storage

# Outcomes that count: the first come while actors still start, and the last leave actors idle.
_STEADY = (0.25, 0.95)


@dataclass(frozen=True)
class Sleeps:
    """One run of the graph.

    Attributes:
        num_clips: Of the plan.
        encode_actors: Each has its own logical GPU; decode and answer have one actor each.
        seconds: Time that each stage sleeps for a clip, by its name.
        most_encode_actors: The size that their pool may grow to; None for a fixed size.
        questions: Questions of each clip. With as many as fill a batch, each clip is answered alone.
    """

    num_clips: int
    encode_actors: int
    seconds: Mapping[str, float]
    most_encode_actors: int | None = None
    questions: int = GPU_DECODE_ROWS


@dataclass(frozen=True)
class Asleep:
    """Results of one run.

    Attributes:
        clips_per_second: In the steady state.
        busy: Share of the steady state that encode actors slept for clips, by their own clocks.
        driver_seconds: CPU time of the driver, per clip, the start of Ray apart.
        driver_bytes: Largest resident memory of the driver so far.
        encode_actors: Number of actors that were started.
    """

    clips_per_second: float
    busy: float
    driver_seconds: float
    driver_bytes: int
    encode_actors: int = 1


class _Sleeping(Stage):
    """Sleeps for the time in the clip's columns."""

    def __init__(self, settings: StageSettings) -> None:
        super().__init__(settings)
        self.announce()

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Sleep; encode records its start and end, and the last stage turns them into answers to commit."""
        begun = time.monotonic()
        time.sleep(float(message.clip.columns[self.name] or 0))
        if self.name == "encode":
            # The clock is the same in every process of a machine.
            return replace(message, answers=({"response": json.dumps([begun, time.monotonic()])},)), {}
        if self.name == "answer":
            rows = ({**message.answers[0], "question_id": question} for question in message.clip.question_ids)
            return replace(message, answers=tuple(rows)), {}
        return message, {}


class SleepingDecode(_Sleeping):
    """The decode stage, asleep."""

    name = "decode"
    makes_tokens = True


class SleepingEncode(_Sleeping):
    """The encode stage, asleep."""

    name = "encode"
    makes_tokens = True


class SleepingAnswer(_Sleeping):
    """The answer stage, asleep."""

    name = "answer"
    batch_size = AnswerStage.batch_size


def measure(several: Sequence[Sleeps]) -> list[Asleep]:
    """Run the graph for each on a new Ray, and commit the answers."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    num_gpus = max(sleeps.most_encode_actors or sleeps.encode_actors for sleeps in several) + 1
    found = []
    with local_ray(num_cpus=4, num_gpus=num_gpus):
        for sleeps in several:
            with TemporaryDirectory(prefix="flashvid-bench-") as folder:
                job = {"videos": folder, "questions": ["?"], "output": f"{folder}/output", "model": {"name": "tiny"}}
                found.append(_measure(sleeps, JobConfig.model_validate(job)))
    return found


def _measure(sleeps: Sleeps, job: JobConfig) -> Asleep:
    encode = Pool(sleeps.encode_actors, num_cpus=0, num_gpus=1, max_size=sleeps.most_encode_actors)
    by_stage = {"decode": Pool(1, 1, 0), "encode": encode, "answer": Pool(1, 0, 1)}
    pools = Pools(by_stage, max_decoded_clips=2 * encode.most + 2)
    actor: Any = ray.remote(num_cpus=0)(RunMonitor)
    run = RunContext(job, Fingerprints({"model.identity": ""}, {}), Storage(job.output), new_run_id())
    lease = Lease.acquire(run.storage, run.run_id)
    monitor = actor.remote(pools.max_decoded_clips)
    settings = StageSettings(run, monitor, ray.put(QuestionTable(())))
    committer = Committer(run.ledger, lease, CommitConfig())
    stages = (SleepingDecode, SleepingEncode, SleepingAnswer)
    times, asleep, begun = [], [], time.process_time()
    for message in stream(_plan(sleeps), pools, settings, stages):
        times.append(time.monotonic())
        asleep.append(json.loads(message.answers[0]["response"]))
        committer.add(message)
        committer.tick()
    committer.flush()
    driver_seconds = (time.process_time() - begun) / sleeps.num_clips
    lease.release()
    first, last = (int(share * len(times)) for share in _STEADY)
    steady = times[first : last + 1]
    rate = (len(steady) - 1) / (steady[-1] - steady[0])
    started = sum(worker.stage == "encode" for worker in ray.get(monitor.activity.remote()).workers)
    # Actors still hold handles to it, so Ray would keep it alive.
    ray.kill(monitor)
    slept = seconds_within(asleep, steady[0], steady[-1])
    busy = slept / sleeps.encode_actors / (steady[-1] - steady[0])
    return Asleep(rate, busy, driver_seconds, peak_bytes(), started)


def seconds_within(spans: Iterable[tuple[float, float]], first: float, last: float) -> float:
    """Return how much of these spans lies within another span, summed."""
    return sum(max(0.0, min(end, last) - max(begin, first)) for begin, end in spans)


def _plan(sleeps: Sleeps) -> RunPlan:
    columns = {stage: str(seconds) for stage, seconds in sleeps.seconds.items()}
    questions = tuple(f"q{number}" for number in range(sleeps.questions))
    keys = [digest("asleep", number) for number in range(sleeps.num_clips)]
    clips = tuple(Clip(key, key, key, None, None, key, None, questions, columns) for key in keys)
    return RunPlan.of(Plan(clips))


if __name__ == "__main__":
    asked = [Sleeps(**sleeps) for sleeps in json.loads(sys.argv[1])]
    print(json.dumps([asdict(found) for found in measure(asked)]))
