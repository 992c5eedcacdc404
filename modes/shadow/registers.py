"""The registers that decide how a guest's CPU translates, as the guest believes them to be (APM vol. 2, 3.1).

The real CPU's are others: its CR3 holds a shadow root, and paging is always on.
Simplified: paging is long mode's, or off.
"""

from __future__ import annotations

import msgspec

from hv.silicon.x86_64.cpu import Shutdown
from hv.silicon.x86_64.instructions import CR4_WRITABLE
from hv.silicon.x86_64.msr import EFER_WRITABLE

CR0_PE, CR0_TS, CR0_WP, CR0_PG = 1, 1 << 3, 1 << 16, 1 << 31
CR4_PAE = 1 << 5
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE, EFER_SVME = 1, 1 << 8, 1 << 10, 1 << 11, 1 << 12
GENERAL_PROTECTION = 13


class GuestFault(Exception):
    """The guest's instruction faults, as it would on hardware."""

    def __init__(self, vector: int, error: int = 0, address: int | None = None) -> None:
        super().__init__(vector)
        self.vector, self.error, self.address = vector, error, address


class PagingRegisters(msgspec.Struct):
    """A plain record, so that a snapshot holds it. A bad value raises GuestFault, and nothing has changed."""

    cr0: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0

    @property
    def paging(self) -> bool:
        return bool(self.cr0 & CR0_PG)

    @property
    def long_mode(self) -> bool:
        return bool(self.efer & EFER_LMA)

    def write_cr0(self, value: int, *, long_code: bool) -> None:
        """CR0, with the switches to and from long mode (APM vol. 2, 14.6). `long_code`: CS.L is set."""
        on = value & CR0_PG
        if value >> 32 or (on and not value & CR0_PE) or value >> 29 & 3 == 1 or (not on and long_code):
            raise GuestFault(GENERAL_PROTECTION)
        if on and not self.paging:
            if not self.efer & EFER_LME:
                raise Shutdown("the guest switched paging on outside long mode, which hv does not shadow")
            if not self.cr4 & CR4_PAE:
                raise GuestFault(GENERAL_PROTECTION)
            self.efer |= EFER_LMA
        elif not on:
            self.efer &= ~EFER_LMA
        self.cr0 = value | 0x10

    def write_cr4(self, value: int) -> None:
        if value & ~CR4_WRITABLE or (self.long_mode and not value & CR4_PAE):
            raise GuestFault(GENERAL_PROTECTION)
        self.cr4 = value

    def write_efer(self, value: int) -> None:
        if value & ~(EFER_WRITABLE | EFER_LMA) or (self.paging and (value ^ self.efer) & EFER_LME):
            raise GuestFault(GENERAL_PROTECTION)
        self.efer = value & EFER_WRITABLE | self.efer & EFER_LMA
