"""Trap and emulate without looking at the code: what happens to an x86 kernel when only traps are emulated.

Popek and Goldberg proved in 1974 that this is not enough when a sensitive instruction does not trap. The kernel is the
same; it goes wrong as soon as one of its instructions lies to it.
"""

from __future__ import annotations

from modes.full_emulation.mode import TrapAndEmulate


class TrapAndEmulateNaive(TrapAndEmulate):
    id = "trap-and-emulate-naive"
    summary = "the same, but sensitive instructions that do not trap are left alone: the guest goes wrong"
    scans = False
