"""The tables of `bench answers`: answers.csv, answers.md and answers.png."""

import math
import os
from dataclasses import asdict
from pathlib import Path

from flashvid.engine.constants import GPU_DECODE_ROWS, QUESTION_ROWS
from flashvid.presets import preset_named
from jobs.bench.reports import describe_environment, write_report, write_rows
from jobs.bench.turns import CONTROL, settled
from jobs.lab.answers import ARMS, AnswerCosts, ArmCost, Scope, measure_answers, work_of
from jobs.lab.answers_model import LLAVA_7B
from jobs.lab.answers_work import H100_PARTS
from jobs.lab.figures import new_figure

# Layers of the 7B model before the paper's inner pruning.
_SPLIT_7B = preset_named("llava_onevision").inner_pruning().pruning_layer


def bench_answers(output: Path | None = None, scope: Scope | None = None) -> AnswerCosts:
    """Measure, print the tables, and write them to `output`.

    Args:
        output: A folder, created if it is missing; None writes nothing.
        scope: How much is measured; None for all of it, up to seven minutes a row.

    Raises:
        ValueError: arms that keep all tokens give different answers.
    """
    before = os.getloadavg()[0]
    found = measure_answers(scope or Scope())
    beside = f"load of the machine {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(answers_markdown(found, beside))
    if output is not None:
        write_answers(output, found, beside)
    return found


def write_answers(output: Path, found: AnswerCosts, beside: str) -> None:
    """Write `answers.md`, `answers.csv` and `answers.png` into a folder; `beside` as in `answers_markdown`."""
    write_report(output, "answers", answers_markdown(found, beside))
    write_rows(output / "answers.csv", _figures(found))
    _plot(output / "answers.png", found)


def predicted_seconds(cost: ArmCost, num_frames: int) -> float:
    """Return the time for the same lengths in LLaVA-OneVision-7B on an H100, by `answers_work.H100_PARTS`."""
    split = _SPLIT_7B if cost.arm == "C inner" else LLAVA_7B.layers
    # The few tokens of the system prompt, which run after the pruning, are left out.
    parts = work_of(
        cost.arm,
        LLAVA_7B,
        num_frames,
        cost.prompt,
        cost.asked,
        split=split,
        rows=GPU_DECODE_ROWS,
        question_rows=QUESTION_ROWS,
    )
    return sum(parts.seconds(H100_PARTS).values())


def break_even(found: AnswerCosts, rival: str) -> int | None:
    """Return after how many questions, asked one at a time, building the cache has cost less than a rival.

    None if an answer from the cache costs as much as the rival's.
    """
    built = found.of("C", 1).seconds - found.of("D", 1).seconds
    saved = found.of(rival, 1).seconds - found.of("D", 1).seconds
    return max(1, math.ceil(built / saved)) if saved > 0 else None


def answers_markdown(found: AnswerCosts, beside: str) -> str:
    """Return the report.

    Args:
        found: What was measured.
        beside: The machine's load, as a sentence.
    """
    lines = [
        "# Answers per CPU second",
        "",
        f"{found.scope.num_frames} frames, one thread, CPU time, least of several turns; {describe_environment()}; "
        f"{beside}.",
        "",
        "| Q | arm | CPU s | shortest run | limit | over limit | A is | B is | B's limit is | 7B on H100, s | A is "
        "| B is | control | turns |",
        "|---" * 14 + "|",
    ]
    frames = found.scope.num_frames
    for cost in found.costs:
        first, rival = found.of("A", cost.questions), found.of("B", cost.questions)
        predicted = [predicted_seconds(one, frames) for one in (cost, first, rival)]
        lines.append(
            f"| {cost.questions} | {cost.arm} | {cost.seconds:.3f} | {cost.shortest:.3f} | {cost.limit:.3f} "
            f"| {_over_limit(cost)} | {_ratio(cost, first.seconds, first)} | {_ratio(cost, rival.seconds, rival)} "
            f"| {_ratio(cost, rival.limit, rival) if cost.arm != 'B' else ''} "
            f"| {predicted[0]:.4f} | {predicted[1] / predicted[0]:.1f}x | {predicted[2] / predicted[0]:.1f}x "
            f"| {cost.control:.1%} | {cost.turns} |"
        )
    lines += [
        "",
        "CPU s: the least of all turns, which are means where an arm runs several times in each; its shortest run "
        "follows. The limit is the time of bare kernels in the arm's shapes, each answer with "
        "its own keys; B's has one copy of the prefix's keys for all, the best that a prefix cache can do. It is "
        "compared with the shortest run. A and B: their time as a multiple of the arm's. A ratio within "
        f"{CONTROL:.0%} of 1 is not reported, nor one whose control is larger: B run twice, for D itself twice; "
        f"A with most questions uses B's control. {_unsettled(found)}",
        "",
        "| Q | arm | frames decoded | encoder calls | token-layers prefilled | tokens generated | written | read "
        "| keys and values, MB |",
        "|---" * 9 + "|",
    ]
    for cost in found.costs:
        c = cost.counts
        lines.append(
            f"| {cost.questions} | {cost.arm} | {c.frames_decoded} | {c.encoder_calls} | {c.token_layers_prefilled} "
            f"| {c.generated_tokens} | {c.bytes_written} | {c.bytes_read} | {c.kv_bytes / 1e6:.1f} |"
        )
    lines += ["", *_paid(found), *_steps(found)]
    return "\n".join(lines) + "\n"


def _paid(found: AnswerCosts) -> list[str]:
    """Return a sentence on when the cache has paid for itself; nothing without the controls."""
    if not all(settled(found.of(arm, 1).control) for arm in "ABCD"):
        return []
    told = [
        f"with question {number} against {arm}" if (number := break_even(found, arm)) else f"never against {arm}"
        for arm in "AB"
    ]
    return [f"Asked one question at a time, the cache has paid for itself {' and '.join(told)}.", ""]


def _steps(found: AnswerCosts) -> list[str]:
    """Return tables of where the time goes, and of the rates from which limits are computed."""
    lines = ["Where the time goes, in CPU seconds, the least of each step, with its limit in brackets:", ""]
    lines += ["| Q | arm | decode | encode | compress | store | answer |", "|---" * 7 + "|"]
    for cost in found.costs:
        limits = cost.limits
        answer = limits["prefix"] + limits["questions"] + limits["decode"]
        least = {"decode": limits["frames"], "encode": limits["encode"], "compress": limits["compress"]}
        cells = []
        for step in ("decode", "encode", "compress", "store", "answer"):
            limit = {**least, "answer": answer}.get(step)
            beside = "" if limit is None else f" ({limit:.3f})"
            cells.append(f"{cost.steps[step]:.3f}{beside}" if step in cost.steps else "")
        if cost.steps:
            lines.append(f"| {cost.questions} | {cost.arm} | " + " | ".join(cells) + " |")
    lines += ["", "Rates of bare kernels in the shapes of each part, with the most questions:", ""]
    lines += [
        "| arm | part | products, GFLOP/s | attention, GFLOP/s | bytes, GB/s | activations, G/s | probabilities, G/s |",
        "|---" * 7 + "|",
    ]
    for cost in found.costs[-len(ARMS) :]:
        lines += [
            f"| {cost.arm} | {part} | "
            + " | ".join(f"{rate / 1e9:.1f}" if math.isfinite(rate) else "" for rate in asdict(rates).values())
            + " |"
            for part in asdict(cost.rates)
            for rates in [getattr(cost.rates, part)]
            if cost.limits[part]
        ]
    return lines


def _ratio(cost: ArmCost, seconds: float, other: ArmCost) -> str:
    """Return a ratio for a table; empty inside the A/A band, or if a control is too large."""
    ratio = seconds / cost.seconds
    return f"{ratio:.1f}x" if settled(cost.control, other.control) and abs(ratio - 1) > CONTROL else ""


def _over_limit(cost: ArmCost) -> str:
    """Return how far the shortest run is above the limit, as a share; empty if the control is too large."""
    over = cost.shortest / cost.limit - 1
    if not settled(cost.control):
        return ""
    return f"{over:+.0%}" if abs(over) > CONTROL else f"within {CONTROL:.0%}"


def _unsettled(found: AnswerCosts) -> str:
    """Name the arms for which nothing is reported."""
    missing = [f"{cost.arm} at Q = {cost.questions}" for cost in found.costs if not settled(cost.control)]
    return f"Not reported: {', '.join(missing)}, whose control is too large." if missing else ""


def _figures(found: AnswerCosts) -> list[dict[str, object]]:
    return [
        {
            "arm": cost.arm,
            "questions": cost.questions,
            "cpu_seconds": cost.seconds,
            "shortest_cpu_seconds": cost.shortest,
            "limit_seconds": cost.limit,
            "predicted_7b_seconds": predicted_seconds(cost, found.scope.num_frames),
            "flops": cost.parts.flops,
            **asdict(cost.counts),
            "control": cost.control,
            "turns": cost.turns,
        }
        for cost in found.costs
    ]


def _plot(path: Path, found: AnswerCosts) -> None:
    if (figure := new_figure(7, 5)) is None:
        return
    axes = figure.subplots()
    for arm in ARMS:
        costs = [cost for cost in found.costs if cost.arm == arm]
        numbers = [cost.questions for cost in costs]
        (line,) = axes.plot(numbers, [cost.seconds / cost.questions for cost in costs], marker="o", label=arm)
        limits = [cost.limit / cost.questions for cost in costs]
        axes.plot(numbers, limits, linestyle=":", color=line.get_color())
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("questions per video")
    axes.set_ylabel("CPU seconds per question; dotted: counted limit")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
