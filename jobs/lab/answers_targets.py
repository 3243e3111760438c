"""The targets of `bench answers`, and which of them are met."""

from __future__ import annotations

from jobs.lab.answers import AnswerCosts
from jobs.lab.verdicts import verdict

# For this number of questions: the least ratio of another arm's time to ours.
QUESTIONS = 16
TIMES = (("C", "B", 1.8), ("C inner", "B", 1.8), ("D", "B", 6.0), ("D", "A", 35.0))
# The most that the shortest run of each of our arms takes, as a multiple of its limit, for any number of questions.
OURS, TIMES_LIMIT = ("C", "C inner", "D"), 1.15


def targets_table(found: AnswerCosts) -> list[str]:
    """Return Markdown lines, a row for each target for which questions were asked."""
    lines = ["| target | measured | verdict |", "|---" * 3 + "|"]
    if QUESTIONS in found.scope.questions:
        for arm, other, target in TIMES:
            ours, rival = found.of(arm, QUESTIONS), found.of(other, QUESTIONS)
            ratio = rival.seconds / ours.seconds
            said = verdict(ratio, target, ours.control, rival.control)
            lines.append(f"| {other} takes {target:g}x of {arm} at Q = {QUESTIONS} | {ratio:.1f}x | {said} |")
    for cost in found.costs:
        if cost.arm in OURS:
            ratio = cost.shortest / cost.limit
            said = verdict(ratio, TIMES_LIMIT, cost.control, at_most=True)
            what = f"{cost.arm} at Q = {cost.questions} within {TIMES_LIMIT - 1:.0%} of its limit"
            lines.append(f"| {what} | {ratio - 1:+.0%} | {said} |")
    return lines
