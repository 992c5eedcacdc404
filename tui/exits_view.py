"""Draws exits: by reason, with bars, and one after the other. Shares are of all exits drawn; cycles are virtual."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from hv.exits import REASONS
from hv.ledger import Stream, Tally
from hv.measure import Measured
from hv.report import number
from hv.silicon.timing import MILLI
from tui.lines_view import Line
from tui.palette import Palette

BOLD = Style(bold=True)
BAR = " ▏▎▍▌▋▊▉█"
WITH_SHARE = 48  # columns from which there is room for a reason's share of the exits beside that of the cycles
BAR_WIDTH, SHORTEST_BAR = 14, 3
SHORTEST_NAME = 12
EXITS_WIDTH, RATE_WIDTH = 8, 8  # of the columns beside a running guest's reasons
TIMES_WIDTH, CYCLES_WIDTH = 5, 8  # of those beside its last exits


def bar(share: float, width: int) -> str:
    """A bar of `width` cells for a share from 0 to 1, drawn in eighths; the smallest share still shows."""
    eighths = max(round(share * width * 8), 1 if share else 0)
    return (BAR[8] * (eighths // 8) + BAR[eighths % 8]).rstrip().ljust(width)[:width]


def short(reason: str, width: int) -> str:
    """A reason in so many cells. One that is too long loses its family first, as in …multicall, then its end."""
    if len(reason) > width and "." in reason:
        reason = "…" + reason.partition(".")[2]
    return reason if len(reason) <= width else reason[: width - 1] + "…"


def _headed(*titles: str) -> Table:
    """A table without lines: the first column takes what it needs, the others are right-aligned."""
    drawn = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    for index, title in enumerate(titles):
        drawn.add_column(title, no_wrap=True, justify="right" if index else "left")
    return drawn


def measured(operation: Measured, palette: Palette, width: int) -> RenderableType:
    """One operation: what it took, what it exited for, and what the silicon did by itself."""
    result = operation.result
    count = number(result.exits_per_op)
    head = Text.assemble(
        (f"{count} exit{'' if count == '1' else 's'}", palette.accent + BOLD),
        f", {result.cycles_per_op:,.0f} cycles an operation",
    )  # fmt: skip
    parts: list[RenderableType] = [head]
    if operation.tallies:
        parts.append(_by_reason(operation.tallies, operation.time, palette, width))
    assists = ", ".join(f"{name} {number(n / result.iterations)}" for name, n in result.assists.items())
    parts.append(Text(f"The silicon by itself: {assists or 'nothing special'}; "
                      f"{result.instructions_per_op:,.0f} instructions.", palette.faint))  # fmt: skip
    parts += [Text.assemble(reason, (f": {REASONS[reason].meaning}", palette.faint))
              for reason in _dearest_first(operation.tallies)]  # fmt: skip
    return Group(*parts)


def _dearest_first(tallies: Mapping[str, Tally]) -> list[str]:
    return sorted(tallies, key=lambda reason: -tallies[reason].time)


def _by_reason(tallies: Mapping[str, Tally], window: int, palette: Palette, width: int) -> RenderableType:
    """The exits of one operation's window, which took `window` millicycles in all: most expensive first."""
    total = sum(tally.count for tally in tallies.values())
    counts = {reason: f"{tally.count:,}" for reason, tally in tallies.items()}
    titles = ["count", *(["count %"] if width >= WITH_SHARE else []), "cycles %"]
    drawn = _headed("reason", *titles)
    drawn.add_column("", no_wrap=True)
    numbers = max(map(len, [*counts.values(), titles[0]])) + 1 + sum(len(title) + 1 for title in titles[1:])
    names = max(min(max(map(len, tallies)), width - numbers - SHORTEST_BAR - 2), SHORTEST_NAME)
    space = max(min(BAR_WIDTH, width - numbers - names - 2), SHORTEST_BAR)
    for reason in _dearest_first(tallies):
        tally = tallies[reason]
        share = tally.time / window if window else 0.0
        cells: list[str | Text] = [Text(short(reason, names)), Text(counts[reason], palette.accent)]
        if width >= WITH_SHARE:
            cells.append(f"{tally.count / total:.1%}")
        cells += [f"{share:.1%}", Text(bar(share, space), palette.primary)]
        drawn.add_row(*cells)
    return drawn


def rates(totals: Mapping[str, int], per_second: Mapping[str, float], palette: Palette, width: int) -> list[Line]:
    """All exits of a running guest, by reason: how many so far, and how many in a second of the host's."""
    names = max(width - EXITS_WIDTH - RATE_WIDTH, SHORTEST_NAME)
    lines: list[Line] = [[(f"{'reason':<{names}}{'exits':>{EXITS_WIDTH}}{'/ s':>{RATE_WIDTH}}", palette.faint)]]
    for reason, count in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        rate = per_second.get(reason, 0.0)
        busy = (f"{rate:>{RATE_WIDTH},.0f}", palette.accent) if rate else (f"{'-':>{RATE_WIDTH}}", palette.faint)
        lines.append([(f"{short(reason, names):<{names}}{count:>{EXITS_WIDTH},}", palette.plain), busy])
    return lines if totals else [[("none so far", palette.faint)]]


def last(stream: Stream, height: int, palette: Palette, width: int) -> tuple[list[Line], int]:
    """The newest exits on so many lines, and how many exits that is. Equal neighbours share a line."""
    names = max(width - TIMES_WIDTH - CYCLES_WIDTH, SHORTEST_NAME)
    newest = reversed(list(stream.last))
    groups = ((key, [cost for _, _, cost in group]) for key, group in itertools.groupby(newest, lambda one: one[:2]))
    picked = list(itertools.islice(groups, height))
    lines: list[Line] = []
    for (_, reason), costs in reversed(picked):
        times = f"x{len(costs)}" if len(costs) > 1 else ""
        mean = f"{sum(costs) / len(costs) / MILLI:,.0f}"
        lines.append([
            (f"{short(reason, names):<{names}}", palette.plain), (f"{times:>{TIMES_WIDTH}}", palette.accent),
            (f"{mean:>{CYCLES_WIDTH}}", palette.faint),
        ])  # fmt: skip
    return lines, sum(len(costs) for _, costs in picked)
