"""A PV domain without a CPU: memory, frames and page tables of two domains, on which hypercalls are called directly.

Domain 1 makes the calls; domain 2 only owns some frames, with a pattern in them. `check` counts everything again from
the tables as they lie in memory and compares: it shares no code with modes/paravirt.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from hv.silicon.memory import Memory, Region, anonymous
from hv.silicon.x86_64.cpu import Cpu
from hv.silicon.x86_64.svm import Vmcb
from modes.paravirt.abi import GUEST_DOMID
from modes.paravirt.calls.again import Again
from modes.paravirt.calls.table import call
from modes.paravirt.domain import Domain, XenTables
from modes.paravirt.frames import Frames, Kind
from modes.paravirt.state import PvVcpuState
from modes.paravirt.vcpu import PvVcpu
from tests.support import costs

FIRST, FRAMES = 0x1_0000, 256
OWN, OTHER = range(192), range(192, 240)  # domain 1's frames and domain 2's; the rest is nobody's
POOL, POOL_FRAMES = 0x8_0000, 128
WINDOW = 0x1000_0000  # where frames 0 to 63 are mapped
L4, L3, L2, L1 = range(4)
ARGUMENTS = WINDOW + (10 << 12)
PRESENT, WRITABLE, USER = 1, 2, 4
ADDRESS = 0x000F_FFFF_FFFF_F000
OTHER_DOMID = 2


class Violation(AssertionError):
    """The domain has got what it may not have, or a count is wrong."""


class FakeCpu:
    """As much of a CPU as hypercalls touch."""

    def __init__(self) -> None:
        self.timing = costs().timing
        self.index, self.entered, self.halted = 0, False, False
        self.rsp, self.rip, self.rflags, self.host_interrupt, self.now = 0, 0, 0x202, False, 0
        self.state = SimpleNamespace(segs=[SimpleNamespace(base=0, selector=0) for _ in range(6)], hflags=0)
        self.regs = [0] * 16
        self.walk_cost = 0

    def charge(self, millicycles: int) -> None:
        self.now += millicycles

    def load_root(self, root: int) -> None: ...

    def leave(self) -> None: ...


class Rig:
    """`mfn(i)` is frame i of the RAM. Frame 0 is the root, 1 to 3 the tables below it, 10 holds arguments."""

    def __init__(self) -> None:
        self.memory = memory = Memory()
        memory.add(Region("RAM", FIRST << 12, FRAMES << 12, anonymous(FRAMES << 12), 0))
        memory.add(Region("pool", POOL << 12, POOL_FRAMES << 12, anonymous(POOL_FRAMES << 12), 0))
        self.used = 0
        self.frames = Frames([(FIRST, FRAMES), (POOL, POOL_FRAMES)])
        self.cpu = FakeCpu()
        self.xen = XenTables(memory, self._alloc, FIRST, FRAMES, 1)
        self.domain = d = Domain(
            GUEST_DOMID, memory, self.frames, self.xen, self.cpu.timing, lambda: self.cpu.now, lambda vcpu: None
        )
        self.shared: list[int] = []
        d.grants.new_page = self._share
        d.events.shared = self._share() << 12
        for i in OWN:
            self.frames.give(self.mfn(i), GUEST_DOMID)
        for i in OTHER:
            self.frames.give(self.mfn(i), OTHER_DOMID)
            memory.write(self.mfn(i) << 12, self.pattern(i))
        self._tables()
        self.v = PvVcpu(d, 0, cast("Cpu", self.cpu), Vmcb(), PvVcpuState())
        d.add_vcpu(self.v)
        self.v.s.up = self.v.s.initialised = True
        self.frames.take_as(self.mfn(L4), Kind.L4, GUEST_DOMID)
        self.v.s.root = self.v.memory.root = self.mfn(L4)

    def _alloc(self) -> int:
        self.used += 1
        assert self.used < POOL_FRAMES
        return POOL + self.used << 12

    def _share(self) -> int:
        mfn = self._alloc() >> 12
        self.frames.share(mfn, GUEST_DOMID)
        self.shared.append(mfn)
        return mfn

    def _tables(self) -> None:
        for table, slot, below in ((L4, WINDOW >> 39, L3), (L3, WINDOW >> 30, L2), (L2, WINDOW >> 21 & 511, L1)):
            self.put(table, slot, self.mfn(below) << 12 | PRESENT | WRITABLE | USER)
        for i in range(64):
            self.put(L1, i, self.mfn(i) << 12 | PRESENT | USER | (0 if i <= L1 else WRITABLE))

    @staticmethod
    def mfn(i: int) -> int:
        return FIRST + i

    @staticmethod
    def pattern(i: int) -> bytes:
        return random.Random(i).randbytes(64) * 64

    def put(self, frame: int, slot: int, value: int) -> None:
        """Write an entry behind Xen's back, as the domain builder may."""
        self.memory.write_u64((self.mfn(frame) << 12) + 8 * slot, value)

    def get(self, frame: int, slot: int) -> int:
        return self.memory.read_u64((self.mfn(frame) << 12) + 8 * slot)

    def call(self, number: int, *arguments: int) -> int:
        """A hypercall, with all its continuations."""
        values = [*arguments, *(5 - len(arguments)) * [0]]
        for _ in range(1000):
            self.v.entries = 0
            try:
                result = call(self.v, number, values)
            except Again as again:
                values[: len(again.arguments)] = again.arguments
                continue
            return result
        return 0  # one that goes on for ever is not stuck: the guest could stop it

    def arguments(self, layout: str, *values: Any, at: int = 0) -> int:
        """Write arguments where the guest has its own, and return the pointer."""
        self.memory.write((self.mfn(10) << 12) + at, struct.pack(layout, *values))
        return ARGUMENTS + at

    def held(self) -> list[tuple[int, bool]]:
        """Frames that others than the guest itself have a hold on, to write or not."""
        return []

    # --- the check --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Count again who uses which frame for what, and compare."""
        refs: Counter[int] = Counter()
        uses: dict[int, tuple[int, int]] = {}  # mfn -> kind, count
        todo: list[tuple[int, int]] = []

        def use(mfn: int, kind: int) -> None:
            refs[mfn] += 1
            known, count = uses.get(mfn, (kind, 0))
            if known != kind:
                raise Violation(f"frame {mfn - FIRST} is used as {known} and as {kind}")
            uses[mfn] = (kind, count + 1)
            if not count and kind in (1, 2, 3, 4):
                todo.append((mfn, kind))

        s, frames = self.v.s, self.frames
        for root in (s.root, s.user_root):
            if root:
                use(root, 4)
        for i in range(FRAMES):
            if frames.pinned[i]:
                use(FIRST + i, frames.kind[i])
        for mfn in s.gdt:
            use(mfn, 5)
        if s.info >> 12 not in self.shared:
            use(s.info >> 12, 6)
        for mfn in self.shared:
            use(mfn, 6)
        for mfn, write in self.held():
            if write:
                use(mfn, 6)
            else:
                refs[mfn] += 1
        while todo:
            mfn, level = todo.pop()
            for slot, entry in enumerate(struct.unpack("<512Q", self.memory.read(mfn << 12, 0x1000))):
                if level == 4 and 256 <= slot < 272:
                    if entry != self.xen.top[slot - 256]:
                        raise Violation(f"slot {slot} of Xen's is changed")
                elif entry & PRESENT:
                    self._check_entry(level, entry)
                    target = (entry & ADDRESS) >> 12
                    if level > 1:
                        use(target, level - 1)
                    elif entry & WRITABLE:
                        use(target, 6)
                    else:
                        refs[target] += 1
        self._check_counts(refs, uses)
        self._check_others()

    def _check_entry(self, level: int, entry: int) -> None:
        if entry & (0x98 | (0 if level == 1 else 0x100)) or entry >> 62 & 1:
            raise Violation(f"entry {entry:#x} of level {level} has a flag that it must not have")
        target = (entry & ADDRESS) >> 12
        own = FIRST <= target < FIRST + FRAMES and self.frames.owner[target - FIRST] == GUEST_DOMID
        if not own and target not in self.shared:
            raise Violation(f"entry {entry:#x} leads to a frame that is not the domain's")

    def _check_counts(self, refs: Counter[int], uses: dict[int, tuple[int, int]]) -> None:
        for i in range(FRAMES):
            mfn, frames = FIRST + i, self.frames
            kind, count = uses.get(mfn, (0, 0))
            if frames.refs[i] != refs[mfn]:
                raise Violation(f"frame {i}: {refs[mfn]} references, Xen counts {frames.refs[i]}")
            if frames.types[i] != count or (count and frames.kind[i] != kind):
                raise Violation(f"frame {i}: {count} uses as {kind}, Xen: {frames.types[i]} as {frames.kind[i]}")
            if count and kind == 5:
                self._check_descriptors(mfn)

    def _check_descriptors(self, mfn: int) -> None:
        for descriptor in struct.unpack("<512Q", self.memory.read(mfn << 12, 0x1000)):
            if descriptor >> 47 & 1 and descriptor >> 45 & 3 != 3 and descriptor >> 40 & 0x1F:
                raise Violation(f"descriptor {descriptor:#x} opens ring {descriptor >> 45 & 3}")

    def _check_others(self) -> None:
        for i in OTHER:
            if self.frames.owner[i] != OTHER_DOMID or self.frames.refs[i] or self.frames.types[i]:
                raise Violation(f"frame {i} is the other domain's no longer")
            if self.memory.read(self.mfn(i) << 12, 0x1000) != self.pattern(i):
                raise Violation(f"frame {i} of the other domain has changed")
        for i in range(OTHER.stop, FRAMES):
            if self.frames.owner[i] not in (0x7FF4, GUEST_DOMID):
                raise Violation(f"frame {i} has no owner that it may have")
