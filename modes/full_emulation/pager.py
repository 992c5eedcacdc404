"""Shadow pages of a guest that runs at ring 3 as a whole: one set of tables for the kernel, one for the user.

Both run at ring 3, so one bit cannot tell them apart: the shadow's U bit is always set, and a change of the guest's
privilege level loads the other root.
"""

from __future__ import annotations

from hv.silicon.x86_64.paging import NX, USER, WRITABLE
from modes.full_emulation.state import VirtualCpu
from modes.shadow.pager import Pager
from modes.shadow.registers import CR0_WP

KERNEL, USER_VIEW, KERNEL_WRITES_ALL = range(3)  # views; the third is the kernel's with CR0.WP = 0


class Ring3Pager(Pager):
    v: VirtualCpu

    def view(self) -> int:
        if self.v.cpl == 3:
            return USER_VIEW
        return KERNEL if self.v.cr0 & CR0_WP else KERNEL_WRITES_ALL

    def rights(self, view: int, entry: int, *, leaf: bool, write: bool) -> int:
        return USER | (WRITABLE if view == KERNEL_WRITES_ALL else entry & WRITABLE)

    # --- the kernel's own code, which does not run while a translation of it does -----------------------------------

    def hide_code(self, on: bool) -> None:
        """From now on nothing can be executed in the kernel's views but what is hung in; or all of it again.

        The leaves stay as they are: they say what the guest executes.
        """
        if on != self.s.hidden:
            self.s.hidden = on
            for at in self.s.kernel_tables:
                self._pool[at] ^= NX
            self.flush()

    def page_table_linked(self, at: int, view: int) -> None:
        if view != USER_VIEW and not self._pool[at] & NX:  # else it is the guest that forbids it
            self.s.kernel_tables.add(at)
            self._pool[at] |= NX * self.s.hidden
