"""The table "AWS EC2 Virtualization Types" (B. Gregg, 2017), as data. This is the only place where it stands.

VS virtualized in software, P paravirtualized, VH virtualized in hardware, H hardware. Printed copies disagree in a few
cells (the interrupts and boot of Xen PV) and drop a cell in others; these follow the article's text and Xen's own
spectrum of paravirtualization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from hv.errors import HvError
from hv.mode import CELLS, Mode

COLUMNS = tuple(CELLS)
COLUMN_TITLES = {
    "cpu": "CPU, Memory",
    "net": "Network I/O",
    "local": "Local Storage",
    "remote": "Remote Storage",
    "interrupts": "Interrupts, Timers",
    "boot": "Motherboard, Boot",
}
SHORT = {"cpu": "cpu", "net": "net", "local": "local", "remote": "remote", "interrupts": "intr", "boot": "boot"}
LETTERS = {
    "VS": "virtualized in software",
    "P": "paravirtualized",
    "VH": "virtualized in hardware",
    "H": "hardware",
}

# The mode that stands for a letter in a column unless --set names another one.
DEFAULT_MODES: dict[str, dict[str, str]] = {
    "cpu": {"VS": "full-emulation", "P": "paravirt", "VH": "hw-assist", "H": "bare-metal"},
    "net": {"VS": "full-emulation", "P": "paravirt", "VH": "sriov", "H": "bare-metal"},
    "local": {"VS": "full-emulation", "P": "paravirt", "VH": "sriov", "H": "bare-metal"},
    "remote": {"VS": "full-emulation", "P": "paravirt", "VH": "sriov", "H": "bare-metal"},
    "interrupts": {"VS": "full-emulation", "P": "paravirt", "VH": "posted-interrupts", "H": "bare-metal"},
    "boot": {"VS": "full-emulation", "P": "paravirt", "H": "bare-metal"},
}


class Row(msgspec.Struct, frozen=True):
    """A machine: a letter a column, and the mode behind each letter."""

    id: str
    label: str
    type: str
    drivers: str
    cells: dict[str, str]
    modes: dict[str, str]


def _row(id: str, label: str, type: str, drivers: str, letters: str, **others: str) -> Row:
    """`others`: modes that are not the default of their column's letter."""
    cells = dict(zip(COLUMNS, letters.split(), strict=True))
    modes = {column: DEFAULT_MODES[column][cell] for column, cell in cells.items()}
    return Row(id, label, type, drivers, cells, modes | others)


ROWS: dict[str, Row] = {
    row.id: row
    for row in (
        _row("emulated", "Fully Emulated", "VM", "", "VS VS VS VS VS VS"),
        _row("xen-pv", "Xen PV 3.0", "VM", "PV drivers", "P P P P P P"),
        _row("xen-hvm-3", "Xen HVM 3.0", "VM", "PV drivers", "VH P P P VS VS"),
        _row("xen-hvm-4", "Xen HVM 4.0.1", "VM", "PVHVM drivers", "VH P P P P VS"),
        _row("aws-2013", "Xen AWS 2013", "VM", "PVHVM + SR-IOV(net)", "VH VH P P P VS"),
        _row("aws-2017", "Xen AWS 2017", "VM", "PVHVM + SR-IOV(net, stor.)", "VH VH VH P P VS"),
        _row("nitro", "AWS Nitro 2017", "VM", "", "VH VH VH VH VH VS"),
        _row("aws-metal", "AWS Bare Metal 2017", "HW", "", "H H H H H H"),
        _row("metal", "Bare Metal", "HW", "", "H H H H H H", local="commodity", remote="commodity"),
    )
}

# Combinations that no real machine had, or that are not built, and why. Each rule looks at the letters; a mode may
# have more to say (Mode.impossible_beside).
IMPOSSIBLE: tuple[tuple[Callable[[Mapping[str, str]], bool], str], ...] = (
    (
        lambda c: c["cpu"] == "H" and any(cell != "H" for cell in c.values()),
        "a bare-metal CPU leaves nobody to virtualize the other columns",
    ),
    (
        lambda c: c["cpu"] != "H" and any(cell == "H" for cell in c.values()),
        "a guest of a hypervisor cannot own bare hardware in another column",
    ),
    (
        lambda c: c["interrupts"] == "VH" and c["cpu"] != "VH",
        "posted interrupts need a hardware-assisted CPU (cpu=VH)",
    ),
    (
        lambda c: c["cpu"] == "P" and "VH" in (c["net"], c["local"], c["remote"]),
        "a PV domain gets a card by pcifront, which is not built: cards are for a hardware-assisted CPU (cpu=VH)",
    ),
    (
        lambda c: c["cpu"] == "VS" and "VH" in (c["net"], c["local"], c["remote"]),
        "cards were first given to guests of a hardware-assisted CPU (cpu=VH)",
    ),
    (
        lambda c: c["cpu"] == "P" and c["interrupts"] != "P",
        "a paravirtualized CPU has no local APIC to virtualize (interrupts=P)",
    ),
    (
        lambda c: c["cpu"] == "P" and c["boot"] != "P",
        "a paravirtualized CPU cannot run a PC's firmware (boot=P)",
    ),
    (
        lambda c: c["cpu"] == "P" and "VS" in (c["net"], c["local"], c["remote"]),
        "Xen emulates no devices for a paravirtualized domain (P or VH)",
    ),
    (
        lambda c: c["boot"] == "P" and c["cpu"] != "P",
        "a paravirtualized boot starts the kernel at ring 3 (cpu=P); PVH, which has it with cpu=VH, is not built",
    ),
)


class Impossible(HvError):
    """A combination that no real machine could have."""


def find_row(name: str) -> Row:
    """The row with this id."""
    if name not in ROWS:
        raise HvError(f"no row is called {name!r}; the rows are {', '.join(ROWS)}")
    return ROWS[name]


def customize(row: Row, changes: list[str], modes: Mapping[str, type[Mode]]) -> Row:
    """The row with cells replaced: each change is COLUMN=CELL, where CELL is a letter or a mode's id."""
    cells, chosen = dict(row.cells), dict(row.modes)
    for change in changes:
        column, equals, cell = change.partition("=")
        if not equals or column not in COLUMNS:
            raise HvError(f"--set takes COLUMN=CELL with a column of {', '.join(COLUMNS)}, not {change!r}")
        if cell in LETTERS:
            if cell not in DEFAULT_MODES[column]:
                raise HvError(f"column {column} has no {cell}: nobody built such a machine")
            cells[column], chosen[column] = cell, DEFAULT_MODES[column][cell]
        elif cell in modes:
            if column not in modes[cell].cells:
                raise HvError(f"mode {cell} does not provide column {column}")
            cells[column], chosen[column] = modes[cell].cells[column], cell
        else:
            known = ", ".join([*LETTERS, *modes])
            raise HvError(f"{cell!r} is neither a letter nor an installed mode; known are {known}")
    reasons = [why for rule, why in IMPOSSIBLE if rule(cells)]
    if chosen["cpu"] in modes:
        others = [modes[id] for column, id in chosen.items() if column != "cpu" and id in modes]
        reasons += [why for mode in others if (why := mode.impossible_beside(modes[chosen["cpu"]])) is not None]
    if reasons:
        raise Impossible(f"{row.id} with {' '.join(changes)} is impossible: {reasons[0]}")
    suffix = "".join(f"+{change}" for change in changes)
    return Row(row.id + suffix, row.label + suffix, row.type, row.drivers, cells, chosen)


def missing_mode(row: Row, modes: Mapping[str, type[Mode]]) -> str | None:
    """The mode that keeps the row from running because it is not built yet, or None."""
    mode = row.modes["cpu"]
    return None if mode in modes and "cpu" in modes[mode].cells else mode


def machine_modes(row: Row, installed: Mapping[str, type[Mode]]) -> dict[str, type[Mode]]:
    """The mode of each column of a row that can run; columns whose mode is not built yet are absent.

    Without them the machine has what every board has: interrupts by its chips, a kernel that a loader has started.
    """
    missing = missing_mode(row, installed)
    if missing is not None:
        raise HvError(f"row {row.id} is not built yet: it needs mode {missing}", 1)
    found = {column: cell_mode(row, column, installed) for column in COLUMNS}
    return {column: mode for column, mode in found.items() if mode is not None}


def cell_mode(row: Row, column: str, installed: Mapping[str, type[Mode]]) -> type[Mode] | None:
    """The mode that provides a row's column, or None when that is not built yet."""
    mode = installed.get(row.modes[column])
    return None if mode is None or column not in mode.cells else mode
