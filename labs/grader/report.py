"""What `hv lab check` prints: the steps with their points, then all about the first one that is not done."""

from __future__ import annotations

import textwrap

from labs.grader.parent import Outcome
from labs.grader.step import Lab

NARROWEST, INDENT = 60, 12  # columns
MOST_PRINTED = 20  # lines of the student's own output that are shown


def points(lab: Lab, outcome: Outcome) -> int:
    return sum(step.points for step, verdict in zip(lab.steps, outcome.verdicts, strict=False) if verdict.passed)


def full(lab: Lab, outcome: Outcome) -> bool:
    return points(lab, outcome) == lab.points


def text(number: int, lab: Lab, outcome: Outcome, width: int) -> str:
    """The whole report, for a terminal of so many columns."""
    lines = [f"lab {number}, {lab.title}: {lab.file}", ""]
    for index, step in enumerate(lab.steps):
        verdict = outcome.verdicts[index] if index < len(outcome.verdicts) else None
        state = "not reached" if verdict is None else "done" if verdict.passed else "not yet"
        got = step.points if verdict is not None and verdict.passed else 0
        lines.append(f"  {got:>3}/{step.points:<3} {index + 1}. {step.title:<46} {state}")
    lines += ["", f"{points(lab, outcome)} of {lab.points} points."]
    printed = outcome.printed.splitlines()
    if printed:
        lines += ["", "your code printed:", *(f"  {line[:width]}" for line in printed[-MOST_PRINTED:])]
    first = next((index for index, verdict in enumerate(outcome.verdicts) if not verdict.passed), None)
    return "\n".join([*lines, "", *(_next(lab, outcome, first, width) if first is not None else [lab.afterwards])])


def _next(lab: Lab, outcome: Outcome, index: int, width: int) -> list[str]:
    """Expected, happened, the exits around it, a hint."""
    verdict, step = outcome.verdicts[index], lab.steps[index]
    what = f"Next, step {index + 1}: {step.title}" if verdict.loaded else f"Next: {lab.file} must load"
    lines = [what, *_labelled("expected", verdict.expected, width)]
    lines += _labelled("happened", verdict.happened, width)
    if verdict.exits:
        lines += ["  the last exits, what handle() returned, and how far it moved RIP:"]
        lines += [f"    {line}" for line in verdict.exits]
    return [*lines, *(_labelled("hint", " ".join(step.hint.split()), width) if verdict.loaded else [])]


def _labelled(label: str, text: str, width: int) -> list[str]:
    """A label, and text whose further lines stand below its first."""
    wrapped = [part for line in text.splitlines() for part in textwrap.wrap(line, max(width, NARROWEST) - INDENT)]
    first, *more = wrapped or [""]
    return [f"  {label:<9} {first}", *(f"  {'':<9} {line}" for line in more)]
