"""The shadow tables of hw-shadow: pages with the guest's own rights in them, and the memory that is behind a board.

What a board has in its guest's physical memory besides RAM, pages of a hypervisor's interface and registers of a card
that the guest was given, is mapped too, as nested tables would.
"""

from __future__ import annotations

from hv.silicon.x86_64.machine import Machine
from hv.silicon.x86_64.paging import USER, WRITABLE
from hv.x86_64.board import Board
from hv.x86_64.pool import HypervisorMemory
from modes.shadow.guest_tables import ALL
from modes.shadow.pager import Pager
from modes.shadow.registers import CR0_WP, PagingRegisters

# Views. Without CR0.WP the kernel may write to read-only pages, and the user may not: one entry cannot say both. So a
# page that the guest has read-only belongs to the kernel, writable, after its write, and to both, read-only, otherwise.
GUEST_RIGHTS, WITHOUT_WP, WITHOUT_WP_READ_ONLY = range(3)  # the third: below an entry that is read-only


class GuestRightsPager(Pager):
    """`chips`: registers in hardware that the guest reaches without an exit, guest-physical page to host-physical."""

    top_without_paging = 3

    def __init__(self, machine: Machine, pool: HypervisorMemory, v: PagingRegisters, board: Board) -> None:
        super().__init__(machine, pool, v)
        self.board = board
        self.chips: dict[int, int] = {}

    def view(self) -> int:
        return GUEST_RIGHTS if self.v.cr0 & CR0_WP or not self.v.paging else WITHOUT_WP

    def view_below(self, view: int, entry: int) -> int:
        return WITHOUT_WP_READ_ONLY if view == WITHOUT_WP and not entry & WRITABLE else view

    def rights(self, view: int, entry: int, *, leaf: bool, write: bool) -> int:
        if view == GUEST_RIGHTS:
            return entry & (USER | WRITABLE)
        if not leaf or (view == WITHOUT_WP and entry & WRITABLE):
            return entry & USER | WRITABLE
        return WRITABLE if write else entry & USER

    # --- guest-physical memory --------------------------------------------------------------------------------

    def page(self, gpa: int) -> int | None:
        return self.board.page(gpa, fetch=True)

    def page_to_map(self, gpa: int, *, fetch: bool = False) -> int | None:
        chip = None if fetch else self.chips.get(gpa & ~0xFFF)
        return self.board.page(gpa, fetch=fetch) if chip is None else chip

    def read_entry(self, gpa: int) -> int:
        if not self.board.platform.placed(gpa):
            return super().read_entry(gpa)
        page = self.page(gpa)
        return ALL if page is None else self.memory.read_u64(page + (gpa & 0xFFF))
