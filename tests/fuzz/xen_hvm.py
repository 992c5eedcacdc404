"""A hostile guest with Xen beside its PC: random hypercalls, parameters, pages, ports and messages.

A case is one guest and some hundred steps. Most calls are nearly valid. Between them the guest runs, writes nonsense
into the pages that it shares with Xen, points its page tables elsewhere, and is put away and taken up again. After
every few steps everything that must hold is looked at: which pages it sees, which channels it has, what its VMCB says.
Every second case is without nested paging.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable, Iterable

from hv.silicon.timing import MILLI
from hv.silicon.x86_64.paging import ADDRESS
from hv.x86_64.pool import SHARED_POOL_BASE, SHARED_POOL_SIZE
from modes.hw_assist.guest_rights import GuestRightsPager
from modes.hw_assist.mode import HwAssist
from modes.hw_assist.shadow import HwShadow
from modes.paravirt.abi import HYPERCALLS
from modes.paravirt.hvm.beside import XenBeside
from modes.paravirt.hvm.physmap import HOLE, PAGE, Physmap
from modes.paravirt.hvm.upcall import LINE, PIN
from modes.paravirt.mode import Paravirt
from modes.shadow.guest_tables import PF_WRITE
from modes.shadow.registers import GuestFault
from tests.support import RawGuest, Where

STEPS, CHECK_EVERY = 120, 8
ARGUMENTS, SHARED, TABLE = 0x4_4000, 0x4_7000, 0x4000
NUMBERS = {name: number for number, name in HYPERCALLS.items()}
WORD = (1 << 64) - 1
RAM_FRAMES = 4096
CODE = "sti; mov $0x40000000, %ecx; mov $0x46000, %eax; xor %edx, %edx; wrmsr; 1: hlt; jmp 1b"


class Violation(AssertionError):
    """The guest has got what it may not have."""


class Player:
    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.guest = RawGuest(CODE, Where(HwShadow if seed % 2 else HwAssist, interrupts=Paravirt))
        self.vm = self.guest.vm
        assert isinstance(self.vm.mode, HwAssist)
        self.mode = self.vm.mode
        (paravirt,) = (mode for mode in self.vm._objects.values() if isinstance(mode, Paravirt))
        assert paravirt.beside_pc is not None
        self.xen: XenBeside = paravirt.beside_pc
        self.cpu = self.vm.machine.cpus[0]
        self.guest.run(50_000)
        vmcb = self.mode.vmcb
        self.fixed = (vmcb.msrpm_base_pa, vmcb.iopm_base_pa, vmcb.n_cr3, vmcb.np_enable)
        self.reached: set[str] = set()
        # With a vector of its own a vCPU has no upcalls by a line.
        self.own_vectors = (0, 0, 1, 99) if seed % 2 else (1, 99)

    # --- what a step is made of -----------------------------------------------------------------------------------

    def gfn(self) -> int:
        r = self.r
        special = (0x44, 0x47, 0x48, 0xFEFFC, 0xFEE00, 0xFEC00, 0x4, RAM_FRAMES - 1, RAM_FRAMES, 1 << 28, WORD)
        return r.choice((*special, r.randrange(0x47, 0x60), r.randrange(RAM_FRAMES), r.getrandbits(40)))

    def pointer(self) -> int:
        r = self.r
        return ARGUMENTS if r.random() < 0.9 else r.choice((0, SHARED, ARGUMENTS | 0xFFC, 0x40_0000, 1 << 47, WORD - 7))

    def domid(self) -> int:
        return self.r.choice((0x7FF0,) * 8 + (1, 0, 2, 0x7FF1, 0xFFFF))

    def port(self) -> int:
        return self.r.choice((0, 1, 2, 3, 4, 5, 63, 64, 4095, 4096, WORD & 0xFFFF_FFFF))

    def write(self, layout: str, *values: int) -> None:
        """Arguments, into whatever page is there now."""
        host = self.xen.domain.physmap.host(ARGUMENTS // PAGE)
        if host is not None:
            self.vm.machine.memory.write(host, struct.pack(layout, *values))

    def call(self, name: str, *arguments: int) -> None:
        """As VMMCALL does it: in an exit of the CPU's."""
        if self.vm.machine.ended is not None:
            return
        regs = self.cpu.regs
        saved = list(regs)
        regs[0] = NUMBERS[name]
        for register, value in zip((7, 6, 2, 10, 8), (*arguments, 0, 0, 0, 0, 0), strict=False):
            regs[register] = value & WORD
        self.vm.ledger.open = True
        reason = self.vm.board.platform.hypercall(self.cpu)  # type: ignore[attr-defined]
        self.mode.deliver(self.cpu)
        self.vm.ledger.open = False
        result = regs[0] - (1 << 64) if regs[0] >> 63 else regs[0]
        if reason != f"hypercall.{name}" or result < -4095:
            raise Violation(f"{name} counts as {reason} and gives {result}")
        self.reached.add(f"{name} {'ok' if result >= 0 else result}")
        regs[:] = saved

    # --- the steps ------------------------------------------------------------------------------------------------

    def place(self) -> None:
        space, index = self.r.choice(((0, 0), (0, 0), (1, 0), (1, 1), (1, 63), (1, 64), (0, 1), (2, 0), (9, 5)))
        self.write("<HHIQQ", self.domid(), 0, space, index, self.gfn() & WORD)
        self.call("memory_op", 7, self.pointer())

    def frames(self) -> None:
        r = self.r
        if r.random() < 0.4:
            self.write("<H6xQ", self.domid(), self.gfn() & WORD)
            self.call("memory_op", 15, self.pointer())
            return
        count = r.choice((0, 1, 2, 2, 3, 1 << 40))
        self.write(
            "<2QIIH6x3Q", ARGUMENTS + 32, count, r.choice((0, 0, 0, 9)), 0, self.domid(), *(self.gfn() for _ in "abc")
        )
        self.call("memory_op", r.choice((1, 1, 6, 6, 3, 4, 0, 2, 12, 1 | 1 << 6)), self.pointer())

    def params(self) -> None:
        r = self.r
        value = r.choice(
            (0, 9, 11, 23, 24, 0xFF, 1 << 56 | 0x1000, 1 << 56 | 0xFFFF_FFFF, 2 << 56 | 0x51, 2 << 56, 3 << 56, WORD)
        )
        index = r.choice((*(0,) * 9, 1, 2, 5, 10, 15, 17, 18, 34, 38, 39, 0xFFFF_FFFF))
        self.write("<HHIQ", self.domid(), 0, index, value)
        self.call("hvm_op", r.choice((0, 0, 0, 1)), self.pointer())

    def own_vector(self) -> None:
        self.write("<IB3x", self.r.choice(self.own_vectors), self.r.choice((0, 15, 16, 0x60, 0xFF)))
        self.call("hvm_op", 23, self.pointer())

    def events(self) -> None:
        self.write("<4I", *(self.port() for _ in range(4)))
        self.call("event_channel_op", self.r.randrange(13), self.pointer())

    def unbound(self) -> None:
        self.write("<HHI", self.domid(), self.r.choice((0, 1, 0x7FF0)), 0)
        self.call("event_channel_op", 6, self.pointer())

    def time(self) -> None:
        r, now = self.r, self.xen.domain.nanoseconds()
        when = r.choice((0, 1, now - 5, now + 100, now + 10_000, now + 10**9, WORD, 1 << 62))
        if r.random() < 0.5:
            self.call("set_timer_op", when & WORD)
        else:
            self.write("<QII", when & WORD, r.choice((0, 1)), 0)
            self.call("vcpu_op", r.choice((3, 4, 5, 6, 7, 8, 9, 10, 13, 0, 99)), r.choice((0, 0, 1)), self.pointer())

    def info(self) -> None:
        self.write("<QII", self.gfn() & WORD, self.r.choice((0, 64, 0xFC0, 0xFC8, 4)), 0)
        self.call("vcpu_op", 10, self.r.choice((0, 0, 1)), self.pointer())

    def wait(self) -> None:
        now = self.xen.domain.nanoseconds()
        self.write(
            "<QIIQ4I", ARGUMENTS + 24, self.r.choice((0, 1, 2, 129)), 0, now + 5000, *(self.port() for _ in "abcd")
        )
        self.call("sched_op", self.r.choice((0, 1, 3, 3, 9)), self.pointer())

    def pirqs(self) -> None:
        self.write("<II", self.r.choice((0, 23, 24, 25, 255, 256, 0x7FF0)), self.r.choice((0, 24, 25, 300)))
        self.call("physdev_op", self.r.choice((5, 12, 13, 14, 23, 23, 40)), self.pointer())

    def grants(self) -> None:
        self.write("<HHIQQ", self.domid(), 0, self.r.choice((0, 1, 64, 65)), ARGUMENTS + 64, 0)
        self.call("grant_table_op", self.r.randrange(12), self.pointer(), self.r.choice((0, 1, 2, 4096)))

    def anything(self) -> None:
        self.write("<16Q", *(self.r.choice((0, 1, 24, self.gfn(), self.r.getrandbits(64))) & WORD for _ in range(16)))
        name = self.r.choice([name for name in HYPERCALLS.values() if name != "sched_op"])
        self.call(name, *(self.r.choice((0, 1, 2, self.pointer(), self.r.getrandbits(64))) for _ in range(5)))

    def scribble(self) -> None:
        """The guest writes into what it shares with Xen, vcpu_info and the ring of the store with it."""
        page = self.r.choice([self.xen.domain.events.shared, self.xen.domain.store * PAGE])
        at = self.r.choice((0, 8, 0x800, 0xA00, 2048, self.r.randrange(PAGE - 8)))
        self.vm.machine.memory.write(page + at, self.r.randbytes(8))

    def remap(self) -> None:
        """An entry of the guest's own page table, for one of the pages that it uses here."""
        page = self.r.choice((0x44, 0x47, 0x48))
        entry = self.r.choice((page << 12 | 7, page << 12 | 7, 5, 0, 0xFEFFC << 12 | 7, self.gfn() << 12 & WORD | 7))
        self.vm.machine.memory.write_u64(self.vm.machine.ram_base + TABLE + 8 * page, entry)
        self.mode.memory_written(TABLE + 8 * page, 8)
        self.vm.machine.engine.flush_tlb()

    def touch(self) -> None:
        """The guest writes to one of these pages, and the shadow lacks it."""
        mode, address = self.mode, self.r.choice((0x44, 0x47, 0x48)) << 12
        if not isinstance(mode, HwShadow) or self.vm.machine.ended is not None:
            return
        with contextlib.suppress(GuestFault):
            if mode.pager.page_to_map(mode.pager.walk(address, write=True).gpa) is not None:
                mode.faults.handle(self.cpu, address, PF_WRITE, user=False)

    def board(self) -> None:
        r, board = self.r, self.vm.board
        self.vm.ledger.open = True
        if r.random() < 0.5:
            size = r.choice((1, 2, 4))
            board.ports.write(r.choice((0x10, 0x11, 0x12)), size, r.getrandbits(8 * size))
        else:
            board.message(
                0xFEE0_0000 | r.choice((0, 1, 24, 25, 255)) << 12, r.choice((0, 0x4300, 0x51, r.getrandbits(8)))
            )
        self.vm.ledger.open = False

    def run(self) -> None:
        if self.vm.machine.ended is None:
            self.vm.run(self.vm.now + self.r.choice((1, 500, 20_000)) * MILLI)

    def put_away(self) -> None:
        saved = self.vm.snapshot()
        self.vm.restore(saved)

    # --- the check ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        d, vmcb = self.xen.domain, self.mode.vmcb
        pages = [page for page in d.physmap.placed.values() if page != HOLE]
        if len(pages) != len(set(pages)):
            raise Violation("a page of Xen's is at two places")
        for page in pages:
            if page % PAGE or not SHARED_POOL_BASE <= page < SHARED_POOL_BASE + SHARED_POOL_SIZE:
                raise Violation(f"the guest sees host page {page:#x}")
        if isinstance(self.mode, HwShadow):
            self.check_shadow(self.mode.pager, d.physmap)
            gfns: Iterable[int] = ()
        else:
            gfns = (*d.physmap.placed, 0x44, 0x47, self.r.randrange(RAM_FRAMES), RAM_FRAMES, 0xFEFFC)
        for gfn in gfns:
            seen = self.cpu.guest_physical(gfn * PAGE)
            if seen is not None and gfn not in (0xFEE00, 0xFEC00) and seen != d.physmap.host(gfn):
                raise Violation(f"the CPU has frame {gfn:#x} at {seen:#x}")
        if (vmcb.msrpm_base_pa, vmcb.iopm_base_pa, vmcb.n_cr3, vmcb.np_enable) != self.fixed:
            raise Violation("the VMCB has changed")
        for state in d.states:
            shared = state.info // PAGE == d.events.shared // PAGE
            if not shared and not self.vm.machine.is_ram(state.info - self.vm.machine.ram_base, 64):
                raise Violation("vcpu_info is outside the guest's memory")
        if d.upcall.s.high and d.upcall.kind not in (LINE, PIN):
            raise Violation("a line is high that no upcall drives")
        for port, channel in d.events.channels.items():
            if (
                not 0 < port < 4096
                or channel.vcpu >= len(d.states)
                or (channel.kind == 3 and channel.virq not in d.pirqs)
            ):
                raise Violation(f"channel {port} is {channel}")

    def check_shadow(self, pager: GuestRightsPager, physmap: Physmap) -> None:
        entries = memoryview(self.mode.pool.region.data).cast("Q")
        first = pager.base - self.mode.pool.region.base >> 3
        for frame, mapped in pager.s.maps.items():
            for at in mapped:
                page = entries[first + at] & ADDRESS
                if page != physmap.host(frame >> 12):
                    raise Violation(f"the shadow has frame {frame >> 12:#x} at {page:#x}")

    def play(self) -> Iterable[str]:
        steps: list[Callable[[], None]] = [
            self.place, self.place, self.frames, self.frames, self.params, self.params, self.own_vector, self.events,
            self.events, self.unbound, self.time, self.info, self.wait, self.pirqs, self.grants, self.anything,
            self.scribble, self.scribble, self.remap, self.touch, self.board, self.run, self.run,
            self.put_away,
        ]  # fmt: skip
        try:
            for step in range(STEPS):
                self.r.choice(steps)()
                if step % CHECK_EVERY == CHECK_EVERY - 1:
                    self.check()
            self.check()
        finally:
            self.vm.close()
        return sorted(self.reached)


def case(seed: int) -> Iterable[str]:
    return Player(seed).play()
