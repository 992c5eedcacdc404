"""A local APIC whose registers are in a virtual-APIC page, for the CPU and for the hypervisor.

The CPU keeps the sets of vectors and the priorities; the hypervisor emulates the rest (timer, commands, errors) with
the chip of hv/silicon/x86_64/lapic.py, and shows in the page what a read of it would give. An interrupt that arrives
is posted.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.silicon.x86_64.lapic import (
    DFR,
    EOI,
    ESR,
    ICR_HIGH,
    ICR_LOW,
    ID,
    ILLEGAL_VECTOR_RECEIVED,
    IRR,
    ISR,
    LDR,
    LVTS,
    PPR,
    SVR,
    TIMER_DIVIDE,
    TIMER_INITIAL,
    TMR,
    TPR,
    VERSION,
    Lapic,
)
from hv.silicon.x86_64.svm import Vmcb
from hv.silicon.x86_64.virtual_apic import Page

SHOWN = (ID, VERSION, LDR, DFR, SVR, ESR, ICR_LOW, ICR_HIGH, *LVTS, TIMER_INITIAL, TIMER_DIVIDE)
IN_PAGE = frozenset((TPR, PPR, *(base + 16 * word for base in (ISR, TMR, IRR) for word in range(8))))


class PagedLapic(Lapic):
    """Takes the place of `chip`. `post(vector)` requests a vector; `status_changed()`: the CPU looks at it again."""

    posted = True

    def __init__(
        self, chip: Lapic, page: Page, vmcb: Vmcb, post: Callable[[int], None], status_changed: Callable[[], None]
    ) -> None:
        super().__init__(chip.state.id, chip.tick, chip.clock, chip.send, chip.changed, chip.broadcast)
        self.state, self.inta = chip.state, chip.inta
        self.page, self.vmcb, self.post, self.status_changed = page, vmcb, post, status_changed
        self.show()

    def show(self) -> None:
        """Let the page have what the chip's registers give."""
        for offset in SHOWN:
            self.page[offset] = super().read(offset)

    def reset(self) -> None:
        super().reset()
        for offset in IN_PAGE:
            self.page[offset] = 0
        self.vmcb.rvi = self.vmcb.svi = 0
        self.vmcb.eoi_exit_bitmap[:] = [0, 0, 0, 0]
        self.show()
        self.status_changed()

    def raise_vector(self, vector: int, level: bool = False) -> None:
        """An interrupt arrives. If it is level-triggered, the I/O APIC must hear of its end, and so the hypervisor."""
        if vector < 16:
            self.error(ILLEGAL_VECTOR_RECEIVED)
        elif self.enabled:
            self.page.assign(TMR, vector, level)
            if level:
                self.vmcb.eoi_exit_bitmap[vector >> 6] |= 1 << (vector & 63)
            self.post(vector)

    def ended(self, vector: int) -> None:
        """The guest has ended a vector for which it was to be watched."""
        self.vmcb.eoi_exit_bitmap[vector >> 6] &= ~(1 << (vector & 63))
        self.broadcast(vector)

    def ppr(self) -> int:
        tpr, svi = self.page[TPR] & 0xFF, self.vmcb.svi
        return tpr if tpr >> 4 >= svi >> 4 else svi & 0xF0

    def set_priority_class(self, value: int) -> None:
        """Nothing: the CPU keeps its priority in the page."""

    # --- registers --------------------------------------------------------------------------------------------

    def written(self, offset: int) -> None:
        """The guest has written to the page: let the chip do what follows, and show what has become of it."""
        page = self.page
        if offset == ICR_LOW:
            super().write(ICR_HIGH, page[ICR_HIGH] >> 24 << 24)
        self.write(offset, page[offset])

    def read(self, offset: int) -> int:
        return self.page[offset] if offset in IN_PAGE else super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == EOI:
            self._end()
            return
        super().write(offset, value)
        if offset == TPR:
            self.page[TPR] = self.state.tpr
            self.status_changed()
        elif offset == SVR:
            self.show()  # switching the chip off masks its own sources
        elif offset in SHOWN:
            self.page[offset] = super().read(offset)

    def _end(self) -> None:
        """An EOI that the CPU has not virtualized, because it was not of 4 bytes."""
        page, vector = self.page, self.vmcb.svi
        page.assign(ISR, vector, False)
        self.vmcb.svi = page.highest(ISR)
        self.status_changed()
        if self.vmcb.eoi_exit_bitmap[vector >> 6] >> (vector & 63) & 1:
            self.ended(vector)
