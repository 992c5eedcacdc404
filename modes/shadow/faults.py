"""What a page fault means when the guest's tables are shadowed: the fault's four kinds.

The guest's own, a device's register, a write to a traced table, or a hidden one: the shadow lacks what the guest has.

Simplified: an event or a PUSHF that the CPU itself performs with its stack in a table of a higher level which maps that
stack, or the running code, ends the guest with a line; no kernel has such a stack.
"""

from __future__ import annotations

from collections.abc import Callable

import capstone
import msgspec
from capstone import x86

from hv.silicon.x86_64.cpu import Cpu, Shutdown
from hv.silicon.x86_64.paging import ADDRESS
from hv.x86_64.board import Board
from hv.x86_64.decode import store_of
from modes.shadow.guest_tables import PF_FETCH, PF_WRITE, Walk
from modes.shadow.pager import Pager
from modes.shadow.registers import GuestFault

# These push a frame or the flags, in which a trap flag that is ours would show.
NOT_TO_BE_STEPPED = frozenset(
    (x86.X86_INS_INT, x86.X86_INS_INT1, x86.X86_INS_INT3, x86.X86_INS_INTO,
     x86.X86_INS_PUSHF, x86.X86_INS_PUSHFD, x86.X86_INS_PUSHFQ)
)  # fmt: skip


class Opened(msgspec.Struct):
    """A page that one instruction may write to: for which, where, and what it is: a "table", or "code"."""

    rip: int
    address: int
    frame: int
    kind: str


class FaultHandler:
    """`decode` gives the instruction at RIP; `step` lets one instruction run and then calls `stepped`."""

    def __init__(
        self, pager: Pager, board: Board, decode: Callable[[Cpu], capstone.CsInsn | None], step: Callable[[Cpu], None]
    ) -> None:
        self.pager, self.board, self.decode, self.step = pager, board, decode, step
        self.opened: list[Opened] = []  # for the instruction that is stepped
        self._cut: list[Opened] = []  # for one that this very page fault has cut short

    def handle(self, cpu: Cpu, address: int, error: int, *, user: bool, delivering: bool = False) -> str:
        """A #PF at linear `address` with error code `error`. Returns the reason; the guest's own raises GuestFault.

        `delivering`: it came while an event was delivered, not from the instruction at RIP.
        """
        pager = self.pager
        cut = [page for page in self._cut if page.rip == cpu.rip]
        self._cut = []
        write, fetch = bool(error & PF_WRITE), bool(error & PF_FETCH)
        walk = pager.walk(address, write=write, user=user, fetch=fetch)
        frame = walk.gpa & ADDRESS
        if pager.page_to_map(walk.gpa, fetch=fetch) is None:
            return self._device(cpu, walk.gpa, user=user, plain=not fetch and not delivering)
        if write and frame in pager.s.traced:
            self._table_write(cpu, address, walk, cut, delivering=delivering)
            return "page_table_write"
        pager.fill(address, walk, write=write, fetch=fetch)
        if write and frame in pager.s.scanned:
            self._code_write(cpu, address, frame, cut)
            return "code_write"
        return "shadow_page_fault"

    def _device(self, cpu: Cpu, gpa: int, *, user: bool, plain: bool) -> str:
        instruction = self.decode(cpu) if plain else None
        self.board.access(
            cpu, gpa, instruction, lambda address, write: self.pager.walk(address, write=write, user=user).gpa
        )
        return "mmio"

    def _table_write(self, cpu: Cpu, address: int, walk: Walk, cut: list[Opened], *, delivering: bool) -> None:
        """Perform it if it is a plain move, else let it through."""
        pager, frame = self.pager, walk.gpa & ADDRESS
        instruction = None if delivering else self.decode(cpu)
        store = store_of(cpu, instruction)
        if store is not None and store.address == address and (walk.gpa & 0xFFF) + store.size <= 0x1000:
            pager.write(walk.gpa, store.value.to_bytes(store.size, "little"))
            cpu.skip(store.length)
            if frame in pager.s.out_of_sync and all(step.table != frame for step in walk.steps):
                pager.fill(address, walk, write=True)  # the next write does not exit
        elif pager.leave_out_of_sync(frame):
            pager.fill(address, walk, write=True)
        elif cut or (instruction is not None and instruction.id not in NOT_TO_BE_STEPPED):
            self._let_through(cpu, Opened(cpu.rip, address, frame, "table"), cut)
        else:
            self._make_room(cpu, walk, frame)
            pager.fill(address, walk, write=True)

    def _make_room(self, cpu: Cpu, walk: Walk, table: int) -> None:
        """What was a table is a stack now: forget it, unless it really is in use."""
        try:
            steps = walk.steps + self.pager.walk(cpu.rip).steps
        except GuestFault:  # code that is still in a TLB
            steps = walk.steps
        if any(step.table == table for step in steps):
            raise Shutdown(f"a stack lies in the page table at {table:#x}, which is in use, at RIP {cpu.rip:#x}")
        self.pager.forget_table(table)

    def _code_write(self, cpu: Cpu, address: int, frame: int, cut: list[Opened]) -> None:
        """A write to code that was looked at. If the running code's own page is written, let this one write through."""
        rip = cpu.state.eip
        here = self.pager.walk(rip).gpa & ADDRESS
        end = self.pager.walk(rip + 15).gpa & ADDRESS if rip & 0xFFF > 0xFF0 else here
        if frame in (here, end) or cut:
            self._let_through(cpu, Opened(rip, address, frame, "code"), cut)
        else:
            self.pager.forget_code(frame)

    def _let_through(self, cpu: Cpu, page: Opened, cut: list[Opened]) -> None:
        """Execute one instruction with the right to write to a page, and to those that it got as far as before."""
        for other in (*cut, page):
            self.pager.fill(other.address, self.pager.walk(other.address, write=True), write=True)
            self.pager.allow_once(other.address)
            self.opened.append(other)
        self.step(cpu)

    def stepped(self, *, cut: bool = False) -> None:
        """The instruction is over. `cut`: a page fault has cut it short, and `handle` comes next."""
        opened, self.opened = self.opened, []
        self._cut = opened if cut else []
        for page in opened:
            if page.kind == "table":
                self.pager.forget_table(page.frame)
            else:
                self.pager.scan_again(page.frame)
