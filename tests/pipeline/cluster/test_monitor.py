"""The run's bookkeeping, as plain Python."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster.monitor import Activity, RunMonitor, Worker


def test_it_begins_empty() -> None:
    """Nothing happened yet."""
    assert RunMonitor(4).activity() == Activity((), {}, {}, 0)


def test_work_adds_up_over_clips_and_stages() -> None:
    """Counts by name, seconds by stage, whatever the order; failed work counts its seconds."""
    monitor = RunMonitor(4)
    monitor.begin("a", "decode")
    monitor.begin("b", "decode")
    monitor.end("b", "decode", {"frames_decoded": 5, "clips_decoded": 1}, 0.5)
    monitor.end("a", "decode", {"frames_decoded": 3}, 0.25)
    monitor.begin("a", "encode")
    monitor.end("a", "encode", {}, 2.0)
    activity = monitor.activity()
    assert activity.counts == {"frames_decoded": 8, "clips_decoded": 1}
    assert activity.seconds == {"decode": 0.75, "encode": 2.0}


def test_a_snapshot_does_not_change_afterwards() -> None:
    """It is taken, not shared."""
    monitor = RunMonitor(4)
    before = monitor.activity()
    monitor.register(Worker("decode", 1, "node", None))
    monitor.begin("a", "decode")
    monitor.end("a", "decode", {"frames_decoded": 5}, 1.0)
    monitor.admit("a")
    assert before == Activity((), {}, {}, 0)


def test_every_process_that_started_is_listed() -> None:
    """Restarted ones beside those they replace."""
    monitor = RunMonitor(4)
    workers = (Worker("encode", 1, "n1", "0"), Worker("encode", 2, "n1", "0"), Worker("decode", 3, "n2", None))
    for worker in workers:
        monitor.register(worker)
    assert monitor.activity().workers == workers


def test_clips_are_begun_together_only_if_none_has_killed() -> None:
    """Else nothing is noted, and each is begun alone."""
    monitor = RunMonitor(4)
    assert monitor.begin_together(["a", "b"], "answer")
    monitor.end("a", "answer", {}, 0.0)
    assert not monitor.begin_together(["a", "b", "c"], "answer")
    assert monitor.begin_together(["a", "c"], "answer")
    assert monitor.begin_together(["b"], "encode")
    assert [monitor.begin(clip, "answer") for clip in "abc"] == [1, 1, 1]


def test_a_clip_that_was_begun_and_not_ended_killed_its_process() -> None:
    """Counted per clip and stage; an end, also of a failure, clears it."""
    monitor = RunMonitor(4)
    assert [monitor.begin("a", "decode") for _ in range(3)] == [0, 1, 2]
    assert monitor.begin("a", "encode") == 0
    assert monitor.begin("b", "decode") == 0
    monitor.end("a", "decode", {}, 0.0)
    assert monitor.begin("a", "decode") == 0
    assert monitor.begin("b", "decode") == 1


def test_admission_is_bounded_and_repeatable() -> None:
    """A clip that holds a place already gets it again; a released place goes to the next."""
    monitor = RunMonitor(2)
    assert [monitor.admit(clip) for clip in ("a", "b", "c", "a", "b")] == [True, True, False, True, True]
    monitor.release("a")
    monitor.release("a")
    monitor.release("never admitted")
    assert [monitor.admit(clip) for clip in ("c", "a")] == [True, False]


def test_frames_that_are_held_are_counted_apart_from_admission() -> None:
    """What really happens is reported, also where somebody decodes without being admitted."""
    monitor = RunMonitor(1)
    assert monitor.admit("a")
    assert monitor.activity().max_decoded_clips == 0
    for clip in ("a", "b", "a"):
        monitor.hold(clip)
    monitor.release("a")
    monitor.hold("c")
    assert monitor.activity().max_decoded_clips == 2


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["admit", "release"]), st.sampled_from("abcdefg"))))
def test_never_more_clips_than_the_bound(bound: int, events: list[tuple[str, str]]) -> None:
    """In any order of events; the largest number that was held is what is reported."""
    held: set[str] = set()
    monitor, most = RunMonitor(bound), 0
    for event, clip in events:
        if event == "release":
            monitor.release(clip)
            held.discard(clip)
        else:
            fits = clip in held or len(held) < bound
            assert monitor.admit(clip) == fits
            if fits:
                monitor.hold(clip)
                held.add(clip)
                most = max(most, len(held))
    assert monitor.activity().max_decoded_clips == most <= bound


def test_a_task_that_ray_ran_twice_may_end_twice() -> None:
    """Ray may retry what it only believes to be dead."""
    monitor = RunMonitor(1)
    monitor.begin("a", "decode")
    for _ in range(2):
        monitor.end("a", "decode", {"frames_decoded": 1}, 0.0)
    assert monitor.begin("a", "decode") == 0
