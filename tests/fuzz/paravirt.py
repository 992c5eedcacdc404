"""Random hypercalls, random page tables and random stores of a PV domain, against a count of its frames from scratch.

A case is one domain (tests/pv_rig.py) and a few hundred steps. Most are nearly valid: a mutation of what a kernel
would do, with frames of its own, of another domain, of Xen's, or of nobody. A store goes wherever the domain's own
page tables let it write. After every few steps everything is counted again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable

from modes.paravirt.abi import HYPERCALLS, Refused
from modes.paravirt.calls.memory import direct_write
from tests.pv_rig import ARGUMENTS, FIRST, FRAMES, L1, L2, OTHER, POOL, WINDOW, Rig

STEPS, CHECK_EVERY = 300, 10
NUMBERS = {name: number for number, name in HYPERCALLS.items()}
FLAGS = (0, 1, 3, 5, 7, 0x27, 0x67, 0x87, 0x107, 0x1F, 0x8000_0000_0000_0007, 0x4000_0000_0000_0007, 0xE07, 2)
WORD = (1 << 64) - 1


class Player:
    """Makes the steps of one case."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.rig = Rig()
        self.reached: set[str] = set()

    # --- what a step is made of -------------------------------------------------------------------------------

    def frame(self) -> int:
        """A machine frame number, more often one that matters."""
        r = self.r
        kind = r.randrange(20)
        if kind < 6:
            return FIRST + r.randrange(16)
        if kind < 12:
            return FIRST + r.randrange(64, 80)
        if kind < 15:
            return FIRST + r.randrange(192)
        if kind < 17:
            return FIRST + r.choice(OTHER)
        if kind == 17:
            return self.rig.shared[0]
        if kind == 18:
            return POOL + r.randrange(1, self.rig.used + 1)
        return r.choice((0, FIRST + FRAMES - 1, FIRST + FRAMES, (1 << 40) - 1, r.getrandbits(40)))

    def entry(self) -> int:
        value = self.frame() << 12 | self.r.choice(FLAGS)
        return value & WORD if self.r.random() < 0.97 else self.r.getrandbits(64)

    def slot(self) -> int:
        return self.r.choice((0, 1, 2, 3, 128, 255, 256, 257, 260, 271, 272, 511, self.r.randrange(512)))

    def linear(self) -> int:
        r = self.r
        near = WINDOW + (r.randrange(80) << 12)
        far = (0xFFFF_8000_0000_0000, 0xFFFF_8200_0000_0000, 0xFFFF_8800_0000_0000, 0, 1 << 47, WORD - 7)
        return near if r.random() < 0.85 else r.choice((*far, r.getrandbits(64)))

    def pointer(self) -> int:
        return ARGUMENTS if self.r.random() < 0.9 else self.linear() | self.r.choice((0, 0, 4, 0xFFC))

    def domid(self) -> int:
        return self.r.choice((0x7FF0,) * 8 + (1, 0, 2, 0x7FF1, 0x7FF2, 0x7FF4, 0x2_7FF0, 0x3_7FF0))

    def arguments(self, layout: str, *values: int) -> None:
        self.rig.arguments(layout, *values)

    def call(self, name: str, *arguments: int) -> None:
        result = self.rig.call(NUMBERS[name], *arguments)
        self.reached.add(f"{name} {'ok' if result >= 0 else result}")

    # --- the steps --------------------------------------------------------------------------------------------

    def mmu_update(self) -> None:
        count = self.r.choice((1, 1, 1, 2, 3))
        requests = []
        for _ in range(count):
            pointer = self.frame() << 12 | self.slot() << 3
            requests += [pointer | self.r.choice((0,) * 12 + (1, 2, 3, 5)), self.entry()]
        self.arguments(f"<{2 * count}Q", *(value & WORD for value in requests))
        self.call("mmu_update", self.pointer(), count, self.r.choice((0, 0, ARGUMENTS + 512)), self.domid())

    def build(self) -> None:
        """Make the entry that a kernel would: of a lower table into a higher one, or of a page into a table."""
        r = self.r
        table, below = r.choice(((L2, L1), (0, 1), (1, 2), (L1, 70), (64, 65), (65, 66), (66, 67), (67, 68), (L2, 67)))
        self.arguments("<QQ", FIRST + table << 12 | self.slot() << 3, FIRST + below << 12 | r.choice((1, 5, 7, 0)))
        self.call("mmu_update", ARGUMENTS, 1, 0, 0x7FF0)

    def remap(self) -> None:
        """Change how one of the first frames is mapped: the way to free it for another use."""
        linear = WINDOW + (self.r.randrange(64) << 12)
        value = FIRST + self.r.choice(((linear - WINDOW) >> 12, self.r.randrange(192))) << 12 | self.r.choice((0, 5, 7))
        self.call("update_va_mapping", linear, value, self.r.choice((0, 1, 2)))

    def update_va_mapping(self) -> None:
        self.call("update_va_mapping", self.linear(), self.entry(), self.r.choice((0, 1, 2, 6, self.linear() | 1)))

    def mmuext(self) -> None:
        command = self.r.choice((0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17, 19, 33))
        self.arguments("<I4xQQ", command, self.frame() & WORD, self.r.choice((self.frame(), self.pointer(), 0)) & WORD)
        self.call("mmuext_op", self.pointer(), 1, 0, self.domid())

    def descriptors(self) -> None:
        r = self.r
        if r.random() < 0.5:
            entries = r.choice((0, 8, 512, 513, 7168, 7169))
            self.arguments("<14Q", *(self.frame() for _ in range(14)))
            self.call("set_gdt", self.pointer(), entries)
        else:
            descriptor = r.choice(
                (0x00AF_9A00_0000_FFFF, 0x00AF_FA00_0000_FFFF, 0x0000_8900_0000_0067, 0, r.getrandbits(64))
            )
            self.call("update_descriptor", self.frame() << 12 | self.slot() << 3 | r.choice((0, 0, 0, 4)), descriptor)

    def ring_0(self) -> None:
        """A frame with a descriptor that opens ring 0 is to become a descriptor table: first it may not be writable."""
        page = WINDOW + (self.r.randrange(20, 40) << 12)
        try:
            address = self.rig.v.memory.machine_address(page + 8 * self.slot(), write=True)
        except Refused:
            return
        self.rig.memory.write_u64(address, 0x00AF_9A00_0000_FFFF)
        self.call("update_va_mapping", page, 0, 0)
        self.arguments("<Q", address >> 12)
        self.call("set_gdt", ARGUMENTS, self.r.choice((8, 512)))

    def memory(self) -> None:
        self.arguments("<QQIIH6xQQ", ARGUMENTS + 32, self.r.choice((0, 1, 2)), 0, 0, self.domid() & 0xFFFF,
                       self.frame(), self.frame())  # fmt: skip
        self.call("memory_op", self.r.choice((0, 1, 1, 6, 2, 3, 12, 5)), self.pointer())

    def store(self) -> None:
        """The guest's CPU writes where the tables let it."""
        linear = self.linear() & ~7
        try:
            address = self.rig.v.memory.machine_address(linear, write=True)
        except Refused:
            return
        value = self.entry() if self.r.random() < 0.7 else self.r.getrandbits(64)
        self.rig.memory.write_u64(address, value)
        self.reached.add("store")

    def store_to_table(self) -> None:
        """The same to a table that is mapped read-only: Xen does it for the guest."""
        try:
            if direct_write(self.rig.v, self.linear() & ~7, 8, self.entry()):
                self.reached.add("table store")
        except Refused as refused:
            self.reached.add(f"table store {-refused.errno}")

    def vcpu(self) -> None:
        self.arguments("<QII", self.frame(), self.r.choice((0, 64, 0xFC0, 0xFC8, 4)), 0)
        self.call("vcpu_op", self.r.randrange(16), self.r.choice((0, 0, 0, 1, 99)), self.pointer())

    def events(self) -> None:
        r = self.r
        ports = [r.choice((0, 1, 2, 3, 4, 4095, 4096, 0x7FF0)) for _ in range(6)]
        self.arguments("<6I", *ports)
        self.call("event_channel_op", r.randrange(13), self.pointer())

    def multicall(self) -> None:
        entries = b""
        for _ in range(3):
            number = self.r.choice(list(HYPERCALLS))
            entries += struct.pack("<8Q", number, 0, *(self.any_argument() for _ in range(6)))
        self.rig.memory.write((FIRST + 10 << 12) + 1024, entries)
        self.call("multicall", ARGUMENTS + 1024, self.r.choice((0, 1, 3)))

    def any_argument(self) -> int:
        r = self.r
        return r.choice((0, 1, 2, self.pointer(), self.linear(), self.frame(), self.entry(), self.domid()))

    def anything(self) -> None:
        name = self.r.choice([name for name in HYPERCALLS.values() if name != "iret"])
        self.arguments("<16Q", *(self.any_argument() & WORD for _ in range(16)))
        self.call(name, *(self.any_argument() for _ in range(5)))

    def play(self) -> Iterable[str]:
        steps: list[Callable[[], None]] = [
            self.mmu_update, self.mmu_update, self.mmu_update, self.build, self.build, self.remap, self.remap,
            self.update_va_mapping, self.mmuext, self.mmuext, self.descriptors, self.memory, self.store, self.store,
            self.store_to_table, self.ring_0, self.vcpu, self.events, self.multicall, self.anything,
        ]  # fmt: skip
        for step in range(STEPS):
            self.r.choice(steps)()
            if step % CHECK_EVERY == CHECK_EVERY - 1:
                self.rig.check()
        self.rig.check()
        return sorted(self.reached)


def case(seed: int) -> Iterable[str]:
    return Player(seed).play()
