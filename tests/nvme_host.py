"""A host for an NVMe card, without a CPU: memory, a bus, and what a driver does, written after the specification.

It shares no numbers with hv/silicon/nvme: registers, opcodes and layouts are written out here once more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hv.host.store import MemoryStore
from hv.silicon.nvme.card import NvmeFunction, NvmePhysical
from hv.silicon.nvme.subsystem import Subsystem
from hv.silicon.timing import DiskTimes
from tests.card_host import CardHost, CardPlace

RAM = 1 << 20
TIMES = DiskTimes(read=1000, write=2000, flush=3000, sector=10, reset=5000)
SECTORS = 2048
PF, VF1 = 0x20, 0x21
VF_MEMORY = 0x2_0000  # what is below is out of reach of virtual functions
READY = 1
ENABLE = 1 | 6 << 16 | 4 << 20
NONE = 0


class Completion(tuple[int, int, int, int, int]):
    """result, queue head, queue, command, status with type."""

    __slots__ = ()
    result = property(lambda self: self[0])
    head = property(lambda self: self[1])
    id = property(lambda self: self[3])
    status = property(lambda self: self[4] & 0x7FF)
    more = property(lambda self: bool(self[4] >> 13 & 1))  # in the error log
    final = property(lambda self: bool(self[4] >> 14 & 1))  # it would end so again


class Place(CardPlace["Host"]):
    """A slot. A virtual function reaches its guest's memory only."""

    def __init__(self, host: Host, function: int) -> None:
        super().__init__(host, function, 0 if function == PF else VF_MEMORY, RAM)

    def write(self, address: int, data: bytes) -> None:
        super().write(address, data)
        if len(data) == 16:
            self.host.completions.append((self.function, data))


class Host(CardHost):
    """A card with two namespaces in a machine of its own."""

    def __init__(self, stores: Sequence[MemoryStore] = ()) -> None:
        super().__init__(RAM)
        self.interrupts: list[tuple[int, int]] = []  # function, message
        self.completions: list[tuple[int, bytes]] = []
        self.stores = list(stores) or [MemoryStore(SECTORS), MemoryStore(SECTORS)]
        self.subsystem = Subsystem("test drive", 0x1D0F, "S1", dict(enumerate(self.stores, 1)), TIMES, 0)
        self.card = NvmePhysical(0x8061, self.subsystem)
        self.bus.plug(self.card, PF, Place(self, PF))
        for distance, vf in self.card.followers:
            self.bus.plug(vf, PF + distance, Place(self, PF + distance))
        self.configure(PF, 4, 6, 2)
        self.subsystem.state.attached[0] = [1]

    def told(self, function: int, message: int) -> None:
        self.interrupts.append((function, message))

    def function(self, place: int = PF) -> NvmeFunction:
        function = self.bus.functions[place]
        assert isinstance(function, NvmeFunction)
        return function

    def enable_vfs(self, count: int = 2) -> None:
        """Virtual functions in configuration space; they are bus masters."""
        self.configure(PF, 0x170, count, 2)
        self.configure(PF, 0x168, 9, 2)
        for vf in range(1, count + 1):
            self.configure(PF + vf, 4, 4, 2)


class Driver:
    """Drives one function. Its queues and buffers lie in RAM from `base`: 64 KiB of it."""

    def __init__(self, host: Host, place: int = PF, base: int = 0x1_0000, entries: int = 8) -> None:
        self.host, self.place, self.base = host, place, base
        self.entries = {0: entries}
        self.sq, self.cq = {0: base}, {0: base + 0x1000}
        self.tail, self.head, self.phase = {0: 0}, {0: 0}, {0: 1}
        self.next_id = 0x100
        self.page = base + 0x8000  # for data

    @property
    def function(self) -> NvmeFunction:
        return self.host.function(self.place)

    def get(self, offset: int, size: int = 4) -> int:
        return self.function.read(0, offset, size)

    def set(self, offset: int, value: int, size: int = 4) -> None:
        self.function.write(0, offset, size, value)

    def start(self) -> None:
        """Reset and enable, as 7.6.1 says, with MSI-X."""
        self.set(0x14, 0)
        self.set(0x24, (self.entries[0] - 1) | (self.entries[0] - 1) << 16)
        self.set(0x28, self.sq[0], 8)
        self.set(0x30, self.cq[0], 8)
        self.host.ram[self.base : self.base + 0x8000] = bytes(0x8000)
        self.tail, self.head, self.phase = {0: 0}, {0: 0}, {0: 1}
        self.entries = {0: self.entries[0]}
        self.set(0x14, ENABLE)
        self.host.pass_time()
        for vector in range(2):
            self.set(0x2000 + 16 * vector, 0xFEE0_0000)
            self.set(0x2008 + 16 * vector, 0x40 + vector)
            self.set(0x200C + 16 * vector, 0)
        self.host.configure(self.place, 0x72, 0x8000, 2)

    def put(
        self, queue: int, opcode: int, namespace: int = NONE, prp1: int = 0, prp2: int = 0, *words: int,
        id: int | None = None, flags: int = 0,
    ) -> int:  # fmt: skip
        """Write a command into a queue, without the doorbell. Returns its identifier."""
        if id is None:
            self.next_id += 1
            id = self.next_id & 0xFFFF
        entry = struct.pack("<BBHI8x8xQQ6I", opcode, flags, id, namespace, prp1, prp2, *words, *[0] * (6 - len(words)))
        at = self.sq[queue] + 64 * self.tail[queue]
        self.host.ram[at : at + 64] = entry
        self.tail[queue] = (self.tail[queue] + 1) % self.entries[queue]
        return id

    def ring(self, queue: int) -> None:
        self.set(0x1000 + 8 * queue, self.tail[queue])

    def take(self, queue: int) -> Completion | None:
        """The next completion, if there is one; the head doorbell follows."""
        at = self.cq[queue] + 16 * self.head[queue]
        result, _, head, from_queue, id, status = struct.unpack("<IIHHHH", self.host.ram[at : at + 16])
        if status & 1 != self.phase[queue]:
            return None
        self.head[queue] += 1
        if self.head[queue] == self.entries[queue]:
            self.head[queue], self.phase[queue] = 0, self.phase[queue] ^ 1
        self.set(0x1004 + 8 * queue, self.head[queue])
        return Completion((result, head, from_queue, id, status >> 1))

    def all(self, queue: int) -> list[Completion]:
        taken = []
        while (completion := self.take(queue)) is not None:
            taken.append(completion)
        return taken

    def run(
        self, queue: int, opcode: int, namespace: int = NONE, prp1: int = 0, prp2: int = 0, *words: int
    ) -> Completion:
        """One command from beginning to end."""
        id = self.put(queue, opcode, namespace, prp1, prp2, *words)
        self.ring(queue)
        self.host.pass_time()
        completion = self.take(queue)
        assert completion is not None
        assert completion.id == id
        return completion

    def admin(self, opcode: int, *words: int, namespace: int = NONE, data: bool = False) -> Completion:
        return self.run(0, opcode, namespace, self.page if data else 0, 0, *words)

    def identify(self, what: int, namespace: int = NONE, controller: int = 0) -> bytes:
        assert self.admin(6, what | controller << 16, namespace=namespace, data=True).status == 0
        return bytes(self.host.ram[self.page : self.page + 0x1000])

    def create_queues(self, number: int = 1, entries: int = 8, vector: int = 1, *, interrupts: bool = True) -> None:
        """An I/O queue pair."""
        self.sq[number], self.cq[number] = self.base + 0x2000 * number, self.base + 0x2000 * number + 0x1000
        self.host.ram[self.sq[number] : self.sq[number] + 0x2000] = bytes(0x2000)
        self.entries[number], self.tail[number], self.head[number], self.phase[number] = entries, 0, 0, 1
        made = self.run(
            0, 5, NONE, self.cq[number], 0, number | (entries - 1) << 16, 1 | interrupts << 1 | vector << 16
        )
        assert made.status == 0
        assert self.run(0, 1, NONE, self.sq[number], 0, number | (entries - 1) << 16, 1 | number << 16).status == 0

    def io(
        self, opcode: int, sector: int, count: int, prp1: int, prp2: int = 0, *, namespace: int = 1, more: int = 0
    ) -> int:
        """A command of queue 1 that names sectors. Its status."""
        words = sector & 0xFFFF_FFFF, sector >> 32, (count - 1) | more
        status: int = self.run(1, opcode, namespace, prp1, prp2, *words).status
        return status


def give_vf(host: Host, pf: Driver, vf: int = 1, namespace: int = 2) -> Driver:
    """What the owner of the card does for a guest: resources, online, a namespace. A driver for the guest."""
    assert pf.admin(0x1C, 8 | 0 << 8 | vf << 16, 4).status == 0
    assert pf.admin(0x1C, 8 | 1 << 8 | vf << 16, 3).status == 0
    assert pf.admin(0x1C, 9 | vf << 16).status == 0
    host.ram[pf.page : pf.page + 4] = struct.pack("<HH", 1, vf)
    assert pf.admin(0x15, 0, namespace=namespace, data=True).status == 0
    return Driver(host, PF + vf, 0x1_0000 * (vf + 1))
