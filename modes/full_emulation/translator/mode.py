"""The full-emulation mode: trap and emulate, but the guest's kernel runs from a translation cache.

While the guest's CPU is at ring 0 in 64-bit code, the real one runs translated code in the window (window.py), at ring
3 as ever. Every exit first goes back from the cache to the guest's own RIP and registers (`_leave`), is then handled
as trap and emulate handles it, and goes into the cache again (`_enter`). User code runs directly, and so does what is
not translated: the few 32-bit instructions of a boot, one instruction that is stepped, a kernel with TF or IOPL set or
one that leaves no room for the window. In those, sensitive instructions are made to trap (scan.py).

Simplified: blocks are not aligned or moved for speed; a port without a chip is known when the code is translated.
"""

from __future__ import annotations

import contextlib
import functools

import capstone
import msgspec

from hv.silicon.timing import MILLI
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import Cpu, Exit, Shutdown
from hv.silicon.x86_64.paging import ADDRESS
from hv.silicon.x86_64.state import RCX
from hv.silicon.x86_64.state import REGISTERS as REGISTERS_BY_NUMBER
from hv.silicon.x86_64.svm import Vmcb
from hv.vcpu import Vcpu
from hv.vm import Vm
from hv.x86_64.decode import decode, store_of
from modes.full_emulation.devices import EmulatedDevices
from modes.full_emulation.emulate import HANDLERS
from modes.full_emulation.mode import Seat, TrapAndEmulate, TrapAndEmulateState
from modes.full_emulation.reflect import GP, PF
from modes.full_emulation.translator.cache import Cache, Page
from modes.full_emulation.translator.desk import Desk, DeskState
from modes.full_emulation.translator.show import Listing
from modes.full_emulation.translator.translate import (
    AFTER_STI,
    AT_TARGET,
    CALL_OUT,
    FINISH,
    MISS,
    PUSHED,
    REGISTER_BITS,
    STEP,
    STUB,
    Place,
    is_sensitive,
)
from modes.full_emulation.translator.window import (
    CODE_PAGE,
    CR8,
    IF,
    INTERRUPT_PAGE,
    PAGES,
    PLACES,
    REGISTERS,
    SIZE,
    Window,
)
from modes.shadow.guest_tables import ACCESSED, PF_FETCH
from modes.shadow.registers import GuestFault

TRIES = 8  # the shadow tables are dropped while the cache is checked against them
# A look-up has found an address that is none of the cache's: the guest itself has something where the slot would be.
ASTRAY = Place(0, AT_TARGET | 1 << RCX | MISS)


class FullEmulationState(msgspec.Struct):
    """What the mode remembers besides its memory."""

    trap: TrapAndEmulateState
    desks: list[DeskState]
    refused: set[int]


@functools.lru_cache(1 << 14)
def decoded(code: bytes) -> capstone.CsInsn | None:
    """The 64-bit instruction that `code` begins with, as if at address 0."""
    return decode(code, True)


class FullEmulation(TrapAndEmulate, EmulatedDevices):
    id = "full-emulation"
    summary = "the kernel's code translated into a cache, at ring 3; the chips of a PC in software"
    cells = {"cpu": "VS", **EmulatedDevices.cells}
    reasons = TrapAndEmulate.reasons | {
        "interrupt_window", "lookup_miss", "table_callout", "translate", "untranslated",
    }  # fmt: skip
    cache_size = SIZE  # bytes of translations; a test makes it small
    desks: list[Desk]
    desk: Desk  # of the vCPU whose turn it is

    def __init__(self, vm: Vm) -> None:
        super().__init__(vm)
        self.refused: set[int] = set()  # places of the window that the guest has wanted

    def _build(self) -> None:
        self.desks = []
        super()._build()
        self.pager.code_lost = self._code_lost
        first = self.desks[0]  # operations run on CPU 0
        self.vm.machine.place_of_mark = lambda mark: first.cache.s.where.get(mark, mark)

    def _make_seat(self, cpu: Cpu) -> Seat:
        seat = super()._make_seat(cpu)
        seat.core.passes_tsc = True
        window = Window(self.vm.machine.memory, self.pool, PLACES[cpu.index])
        self.desks.append(Desk(window, Cache(window, self._is_inert, self.cache_size)))
        return seat

    def _sit(self, index: int) -> None:
        super()._sit(index)
        self.desk = self.desks[index]

    def adopt(self, first: Vmcb) -> None:
        super().adopt(first)
        self._enter(self.core.cpu)

    def _is_inert(self, port: int) -> bool:
        return not self.board.ports.claimed(port)

    def _code_lost(self) -> None:
        """Whoever is in the cache may not run on there: the hypervisor interrupts that CPU, to look."""
        self.decoded.clear()
        for seat, desk in zip(self.seats, self.desks, strict=True):
            desk.lost = True
            desk.ready.clear()
            if desk.inside:
                seat.core.cpu.host_interrupt = True

    # --- state ------------------------------------------------------------------------------------------------

    def masked(self, index: int) -> bool:
        desk = self.desks[index]
        return not desk.window.bytes[IF] & 1 if desk.inside else super().masked(index)

    def state(self) -> FullEmulationState | None:  # type: ignore[override]
        if self.vm.mode is not self:
            return None  # another mode has the CPU
        return FullEmulationState(super().state(), [desk.state() for desk in self.desks], self.refused)

    def set_state(self, state: FullEmulationState | None) -> None:  # type: ignore[override]
        if state is None:
            return
        super().set_state(state.trap)
        for desk, saved in zip(self.desks, state.desks, strict=True):
            desk.set_state(saved)
        self.refused = state.refused

    def translation(self, start: int, end: int) -> list[tuple[str, list[str]]]:
        return Listing(self.desks[0].cache).lines(start, end)

    def notes(self) -> list[str]:
        cache = self.desks[0].cache
        costs = cache.s.costs
        cycles = costs.instructions * self.vm.costs.translation // MILLI
        made = f"{costs.blocks} blocks of {costs.instructions} instructions in {cycles} cycles"
        lost = f"emptied {costs.flushes} times, {costs.pages_dropped} pages dropped"
        stores = f"{costs.adapted} stores adapted, {costs.reverted} of them in vain"
        return [f"translation cache: {made}, {cache.used} of {cache.size} bytes used, {lost}, {stores}"]

    def guest_registers(self, cpu: Cpu) -> dict[str, int]:
        """In the cache: as `_leave` would make them."""
        values, desk = super().guest_registers(cpu), self.desks[cpu.index]
        if desk.inside:
            place, window = desk.cache.s.places.get(cpu.rip), desk.window
            if place is not None:
                values["rip"] = cpu.regs[RCX] if place.fix & AT_TARGET else place.rip
                for number, name in enumerate(REGISTERS_BY_NUMBER):
                    if place.fix >> number & 1:
                        values[name] = window.word(REGISTERS + 8 * number)
        return values

    # --- exits ------------------------------------------------------------------------------------------------

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        cpu = vcpu.cpu
        if vcpu.index != self.turn:
            self._sit(vcpu.index)
        self._leave(cpu)
        place = self.desk.place
        if place is not None and place.fix & FINISH and (exit.code == svm.INTR or self._lost_window(exit)):
            self._finish(cpu)
        reason = super().handle(vcpu, exit)
        self._enter(cpu)
        return reason

    def _finish(self, cpu: Cpu) -> None:
        """Complete an instruction that is cut short where the flags are spoilt."""
        instruction = self._instruction(cpu)
        assert instruction is not None
        try:
            self.emulator.run(instruction)
        except GuestFault as fault:  # another vCPU has changed the tables in between
            self._reflect(fault)

    def _lost_window(self, exit: Exit) -> bool:
        """Has the pager dropped the tables that the window hung in, for another vCPU?"""
        page = exit.info2 - self.desk.window.base >> 12
        return exit.code == svm.EXCEPTION + PF and CODE_PAGE <= page < PAGES and bool(exit.info1 & PF_FETCH)

    def wake(self, vcpu: Vcpu) -> None:
        super().wake(vcpu)
        self._enter(vcpu.cpu)

    def _event(self, cpu: Cpu, exit: Exit, *, stepped: bool) -> str:
        place = self.desk.place
        if place is None:
            return super()._event(cpu, exit, stepped=stepped)
        if exit.code == svm.SWINT and place.fix >= CALL_OUT:
            return self._called_out(cpu, place)
        if self._lost_window(exit):
            return "shadow_page_fault"
        if place.fix & AT_TARGET and exit.code in (svm.EXCEPTION + PF, svm.EXCEPTION + GP):
            self.desk.missed = True
            return "lookup_miss"
        if exit.code == svm.EXCEPTION + PF and exit.info2 - self.desk.window.base >> 12 == INTERRUPT_PAGE:
            instruction = self._instruction(cpu)
            if instruction is not None and instruction.id in HANDLERS and is_sensitive(instruction):
                self.emulator.run(instruction)  # it writes IF or CR8, for which an interrupt waits
                return "interrupt_window"
        rip = cpu.rip
        reason = super()._event(cpu, exit, stepped=stepped)
        if reason == "page_table_write":
            self._adapt(cpu, rip)
        return reason

    def _called_out(self, cpu: Cpu, place: Place) -> str:
        if place.fix & STUB:
            return "translate"
        if place.fix & MISS:
            self.desk.missed = True
            return "lookup_miss"
        if place.fix & STEP:
            self._step(cpu)
            return "untranslated"
        if self.desk.cache.is_adapted(place.rip):
            return self._adapted_store(cpu)
        instruction = self._instruction(cpu)
        assert instruction is not None
        reason = self.emulator.run(instruction)
        assert reason is not None
        return reason

    def _instruction(self, cpu: Cpu) -> capstone.CsInsn | None:
        """The kernel's own code is read as it was translated."""
        known = self.desk.cache.s.pages.get(cpu.rip >> 12) if self.desk.place is not None else None
        return super()._instruction(cpu) if known is None else self._fetch(cpu.rip, walk=False)

    # --- out of the cache -------------------------------------------------------------------------------------

    def _leave(self, cpu: Cpu) -> None:
        """From the cache to the guest's own RIP, registers and flags."""
        self.desk.place = None
        if not self.desk.inside:
            return
        self.desk.inside = False
        window, at = self.desk.window, cpu.rip
        self.v.interrupts = bool(window.bytes[IF] & 1)
        if cpu.tpr != window.bytes[CR8] & 0xF:
            cpu.tpr = window.bytes[CR8] & 0xF
        place = self.desk.cache.s.places.get(at)
        if place is None and window.holds(at):
            raise Shutdown(f"the guest has jumped into the translation cache, to {at:#x}")
        if place is None:
            place = ASTRAY
        fix = place.fix
        rip = cpu.regs[RCX] if fix & AT_TARGET else place.rip
        for register in range(16) if fix & REGISTER_BITS else ():
            if fix >> register & 1:
                cpu.regs[register] = window.word(REGISTERS + 8 * register)
        if fix & PUSHED:
            cpu.rsp = cpu.rsp + 8 & (1 << 64) - 1
        if fix & AFTER_STI:
            self.v.shadow = rip
        cpu.rip = rip
        self.desk.place = Place(rip, fix)

    # --- into the cache ---------------------------------------------------------------------------------------

    def _translatable(self, cpu: Cpu) -> bool:
        """Is it the cache that the guest's next instruction runs from?"""
        v, core = self.v, self.core
        return v.cpl == 0 and v.long_code and not (v.iopl or core.trap or core.stepping or cpu.halted or cpu.waits)

    def _enter(self, cpu: Cpu) -> None:
        if self._translatable(cpu):
            address = self._find(cpu)
            if address is None and any(desk.window.holds(cpu.rip) for desk in self.desks):
                self.pager.drop_all()  # the guest has nothing there: let the real CPU find nothing either
            self.core.load_root()
            if address is not None:
                window, v = self.desk.window, self.v
                window.bytes[IF], window.bytes[CR8] = v.interrupts, cpu.tpr
                window.tell(v)
                waits = bool(self.board.lapics[cpu.index].state.irr)
                if waits != window.guarded:
                    window.guard(waits)
                    self.core.flush()
                cpu.rip = address
                self.desk.inside = True
        self.desk.missed = False
        self.desk.untranslated = self.v.cpl == 0 and not (self.desk.inside or cpu.halted or cpu.waits)
        self.pager.hide_code(not any(desk.untranslated for desk in self.desks))

    def _find(self, cpu: Cpu) -> int | None:
        """The translation of what the guest executes next. None when that is better left to the real CPU to refuse."""
        cache, rip = self.desk.cache, cpu.rip
        for _ in range(TRIES):
            if not self._check(rip):
                return None
            landing = self.desk.missed and rip not in cache.s.landings
            try:
                if not cache.targets.covers(rip):
                    self._cover(rip)
                    continue
                if rip not in cache.s.where or landing:
                    if cache.full:
                        self._empty_cache()
                        continue
                    self._translate(cpu, rip, landing=landing)
            except GuestFault:
                return None
            if self.pager.root() in self.desk.ready:
                return cache.s.where.get(rip)
        return None

    def _cover(self, rip: int) -> None:
        """Code in a new area: its targets need a place, too. Raises GuestFault where the guest has no code."""
        self.pager.walk(rip, fetch=True)
        if self.desk.cache.targets.all_areas_used:
            self._empty_cache()
        self.desk.cache.targets.cover(rip)
        self.desk.ready.clear()

    def _translate(self, cpu: Cpu, rip: int, *, landing: bool) -> None:
        cache = self.desk.cache
        if rip in cache.s.where:
            cache.add_landing(rip)
            return
        self._add_page(rip >> 12)
        count = cache.translate(rip, self._fetch, landing=landing)
        cpu.charge(count * self.vm.costs.translation)
        self.vm.machine.renew_marks()

    def _empty_cache(self) -> None:
        self.desk.cache.flush()
        self.core.flush()
        self.vm.machine.renew_marks()

    def _add_page(self, page: int) -> None:
        """The guest executes a page: keep its bytes, and hear of changes. Raises GuestFault."""
        walk = self.pager.walk(page << 12, fetch=True)
        frame = walk.gpa & ADDRESS
        if not self.pager.is_ram(frame):
            raise GuestFault(PF)  # the real CPU says what that is
        if page not in self.desk.cache.s.pages:
            self.pager.fill(page << 12, walk, fetch=True)
            self.desk.cache.s.pages[page] = Page(frame, self.pager.read(frame, 0x1000))

    def _fetch(self, rip: int, *, walk: bool = True) -> capstone.CsInsn | None:
        """The instruction at `rip`. The page that it begins in is known; of the next one it is, if need be."""
        pages = self.desk.cache.s.pages
        offset = rip & 0xFFF
        code = pages[rip >> 12].code[offset : offset + 15]
        instruction = decoded(code)
        if instruction is None and len(code) < 15:
            behind = (rip >> 12) + 1 & (1 << 52) - 1
            if walk and behind not in pages:
                self._add_page(behind)
            if behind in pages:
                instruction = decoded(code + pages[behind].code[: 15 - len(code)])
        return instruction

    # --- is the cache still true? -----------------------------------------------------------------------------

    def _check(self, rip: int) -> bool:
        """Make the cache true for the address space that is loaded. False when the guest leaves no room for it."""
        for _ in range(TRIES):
            if self.pager.root() in self.desk.ready:
                return True
            self.desk.lost = False
            if not self._place_window():
                return False
            if rip in self.desk.cache.s.where:
                self._touch(rip)
            for page, known in list(self.desk.cache.s.pages.items()):
                if not self._still_true(page, known):
                    self.desk.cache.drop_page(page)
            if not self.desk.lost:
                self.desk.ready.add(self.pager.root())
                self.vm.machine.renew_marks()
        return self.pager.root() in self.desk.ready

    def _touch(self, rip: int) -> None:
        """The guest executes this page in this address space: its tables say so."""
        with contextlib.suppress(GuestFault):  # then it is not true either
            self.pager.walk(rip, fetch=True)

    def _still_true(self, page: int, known: Page) -> bool:
        """Is the page mapped to that frame, with those bytes in it, as hardware would find it?"""
        pager = self.pager
        if known.frame not in pager.s.scanned:
            return False
        try:
            walk = pager.walk(page << 12, fetch=True, touch=False)
        except GuestFault:
            return False
        if walk.gpa & ADDRESS != known.frame or not all(step.entry & ACCESSED for step in walk.steps):
            return False
        if pager.read(known.frame, 0x1000) != known.code:
            return False
        pager.fill(page << 12, walk, fetch=True)
        return True

    def _place_window(self) -> bool:
        """Hang the window and the table of targets into the kernel's view; where the guest has something, they move."""
        window = self.desk.window
        if self._fits(window.base):
            return True
        self.refused.add(window.base)
        for base in PLACES:
            if base not in self.refused and self._fits(base):
                window.base = base
                self.pager.drop_all()  # where it was, it is no more
                self._empty_cache()
                return self._fits(base)
        self._empty_cache()  # without its targets the window may fit again, for other code
        return False

    def _fits(self, base: int) -> bool:
        """Hang everything where it belongs with the window at `base`, if nobody has anything there."""
        desk = self.desk
        marked = self.breakpoints.marked
        if any(page in marked for page in range(base >> 12, (base >> 12) + PAGES)):
            return False
        taken = {at for other in self.desks if other is not desk for at in other.places(other.window.base)}
        wanted = desk.places(base)
        if taken & wanted.keys() or base in desk.cache.targets.places(base):
            return False
        return all(self.pager.hang(at, table) for at, table in wanted.items())

    # --- adaptation -------------------------------------------------------------------------------------------

    def _adapt(self, cpu: Cpu, rip: int) -> None:
        """A store has faulted on a page table. If it keeps doing so, and is a plain move, it becomes a call-out."""
        places, where = self.desk.cache.s.places, self.desk.cache.s.where
        if rip not in where or places[where[rip]].fix & ~AFTER_STI or store_of(cpu, self._fetch(rip)) is None:
            return
        self.desk.cache.faulted(rip)

    def _adapted_store(self, cpu: Cpu) -> str:
        """Perform a store for the guest: no fault, no search for what it was."""
        pager, rip = self.pager, cpu.rip
        store = store_of(cpu, self._instruction(cpu))
        assert store is not None
        walk = pager.walk(store.address, write=True)
        if not pager.is_ram(walk.gpa) or (walk.gpa & 0xFFF) + store.size > 0x1000:
            self._step(cpu)
            return "untranslated"
        useful = walk.gpa & ADDRESS in pager.s.traced
        pager.write(walk.gpa, store.value.to_bytes(store.size, "little"))
        cpu.skip(store.length)
        self.desk.cache.judge(rip, useful=useful)
        return "table_callout"
