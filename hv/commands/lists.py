"""hv rows, ops, modes, exits: what there is. hv doctor: whether it works here."""

from __future__ import annotations

from hv.commands import terminal
from hv.commands.terminal import print_list
from hv.exits import REASONS
from hv.mode import find_modes
from hv.ops import OPS
from hv.table import COLUMNS, ROWS, SHORT, missing_mode


def rows() -> None:
    """List the rows of the table, and the technique in each cell."""
    modes = find_modes()
    lines = []
    for row in ROWS.values():
        missing = missing_mode(row, modes)
        state = "" if missing is None else f"not built yet (mode {missing})"
        lines.append([row.id, row.label, *row.cells.values(), state or row.drivers])
    print_list(["row", "tech", *(SHORT[column] for column in COLUMNS), "with"], lines)


def ops() -> None:
    """List the operations."""
    print_list(["operation", "meaning"], [[op.id, op.meaning] for op in OPS.values()])


def modes() -> None:
    """List the installed modes."""
    lines = [
        [mode.id, " ".join(f"{column}={cell}" for column, cell in mode.cells.items()), mode.summary]
        for mode in find_modes().values()
    ]
    print_list(["mode", "provides", "technique"], lines)


def exits() -> None:
    """List the reasons for which a guest exits to its hypervisor."""
    if terminal.out.width >= terminal.WIDE:
        print_list(["reason", "AMD", "Intel", "meaning"], [[r.id, r.amd, r.intel, r.meaning] for r in REASONS.values()])
    else:
        names = {r.id: r.amd if r.amd == r.intel else f"{r.amd}; {r.intel}" for r in REASONS.values()}
        print_list(
            ["reason", "meaning (AMD; Intel)"], [[r.id, f"{r.meaning} ({names[r.id]})"] for r in REASONS.values()]
        )


def doctor() -> int:
    """Check that hv can run here: Unicorn, both paths, the guest, the terminal, optional tools."""
    from hv.doctor import examine

    findings = list(examine())
    print_list(["", "what", "detail"], [[finding.state, finding.what, finding.detail] for finding in findings])
    return 1 if any(finding.state == "bad" for finding in findings) else 0
