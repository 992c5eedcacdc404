"""Draws exits by reason: a table with bars. Shares are of all exits drawn; cycles are virtual."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from hv.exits import REASONS
from hv.ledger import Tally
from hv.measure import Measured
from hv.report import number
from tui.lines_view import Line
from tui.palette import Palette

BOLD = Style(bold=True)
BAR = " ▏▎▍▌▋▊▉█"
WITH_MEANING = 76  # columns from which there is room for what a reason means


def bar(share: float, width: int) -> str:
    """A bar of `width` cells for a share from 0 to 1, drawn in eighths; the smallest share still shows."""
    eighths = max(round(share * width * 8), 1 if share else 0)
    return (BAR[8] * (eighths // 8) + BAR[eighths % 8]).rstrip().ljust(width)[:width]


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
        f", {number(result.cycles_per_op)} cycles an operation",
    )  # fmt: skip
    parts: list[RenderableType] = [head]
    if operation.tallies:
        parts.append(_by_reason(operation.tallies, operation.time, palette, width))
    assists = ", ".join(f"{name} {number(n / result.iterations)}" for name, n in result.assists.items())
    parts.append(Text(f"The silicon by itself: {assists or 'nothing special'}; "
                      f"{number(result.instructions_per_op)} instructions.", palette.faint))  # fmt: skip
    return Group(*parts)


def _by_reason(tallies: Mapping[str, Tally], window: int, palette: Palette, width: int) -> RenderableType:
    """The exits of one operation's window, which took `window` millicycles in all: most expensive first."""
    total = sum(tally.count for tally in tallies.values())
    drawn = _headed("reason", "count", "count %", "cycles %")
    drawn.add_column("", no_wrap=True)
    if width >= WITH_MEANING:
        drawn.add_column("", no_wrap=True, style="dim", overflow="ellipsis")
    space = 14 if width >= WITH_MEANING else max(width - 42, 3)
    for reason, tally in sorted(tallies.items(), key=lambda item: -item[1].time):
        share = tally.time / window if window else 0.0
        cells: list[str | Text] = [
            Text(reason), Text(f"{tally.count:,}", palette.accent), f"{tally.count / total:.1%}", f"{share:.1%}",
            Text(bar(share, space), palette.primary),
        ]  # fmt: skip
        drawn.add_row(*cells, *([REASONS[reason].meaning] if width >= WITH_MEANING else []))
    return drawn


def rates(totals: Mapping[str, int], per_second: Mapping[str, float], palette: Palette) -> list[Line]:
    """All exits of a running guest, by reason: how many so far, and how many in a second of the host's."""
    lines: list[Line] = [[(f"{'reason':<18}{'exits':>8}{'/ s':>8}", palette.faint)]]
    for reason, count in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        rate = per_second.get(reason, 0.0)
        busy = (f"{rate:>8,.0f}", palette.accent) if rate else (f"{'-':>8}", palette.faint)
        lines.append([(f"{reason:<18}{count:>8,}", palette.plain), busy])
    return lines if totals else [[("none so far", palette.faint)]]
