"""A host for an 82599, without a CPU: memory, a bus, a wire, and what drivers do, written after the data sheet.

It shares no numbers with hv/silicon/ixgbe: registers and descriptors are written out here once more.
"""

from __future__ import annotations

import struct

from hv.silicon.ixgbe.card import IxgbeFunction, IxgbePhysical
from hv.silicon.pci import Function
from tests.card_host import CardHost, CardPlace

TSC_HZ = 2_500_000_000
US = TSC_HZ // 1000  # millicycles
READ = US // 2  # what a read across PCI Express takes
RAM, SHARE = 2 << 20, 1 << 18  # each function has a share of the RAM: the physical one the first
PF = 0x20
MAC = bytes.fromhex("026876000100")
OUTSIDE = bytes.fromhex("0200000000ff")
BROADCAST = b"\xff" * 6
RX, TX, RX_BUFFERS, TX_BUFFERS = 0x0000, 0x1000, 0x4000, 0x2_4000  # in a function's share
RING = 16  # descriptors
ENABLE = 1 << 25


def place(vf: int) -> int:
    """Where a virtual function is on the bus."""
    return PF + 128 + 2 * vf


def mac(vf: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, 0x10 + vf))


class Host(CardHost):
    """A card in a machine of its own; each function has its share of the RAM. `sent`: what was put on the wire."""

    def __init__(self) -> None:
        super().__init__(RAM)
        self.interrupts: list[tuple[int, int, int]] = []  # function, message, time
        self.sent: list[tuple[bytes, int]] = []
        self.card = IxgbePhysical(TSC_HZ, READ, MAC)
        self.card.connect(lambda frame, at: self.sent.append((frame, at)))
        self._plug(self.card, PF, 0)
        for number, (distance, vf) in enumerate(self.card.followers):
            self._plug(vf, PF + distance, 1 + number)
        self.configure(PF, 4, 6, 2)

    def _plug(self, function: Function, where: int, share: int) -> None:
        self.bus.plug(function, where, CardPlace(self, where, SHARE * share, SHARE * (share + 1)))

    def told(self, function: int, message: int) -> None:
        self.interrupts.append((function, message, self.now))

    @property
    def frames(self) -> list[bytes]:
        return [frame for frame, _ in self.sent]

    def function(self, where: int = PF) -> IxgbeFunction:
        function = self.bus.functions[where]
        assert isinstance(function, IxgbeFunction)
        return function

    def get(self, offset: int) -> int:
        """A register of the physical function."""
        return self.card.read(0, offset, 4)

    def set(self, offset: int, value: int) -> None:
        self.card.write(0, offset, 4, value)

    def enable_vfs(self, count: int = 2) -> None:
        """Virtual functions in configuration space; they are bus masters."""
        self.configure(PF, 0x170, count, 2)
        self.configure(PF, 0x168, 9, 2)
        for vf in range(count):
            self.configure(place(vf), 4, 4, 2)

    def virtualize(self, count: int = 2) -> None:
        """What an owner does: 64 pools, a pool and an address for each virtual function, everything watched."""
        self.enable_vfs(count)
        for offset, value in (
            (0x11050, 3), (0x898, 0x4000_0030), (0x5818, 8), (0x8120, 6), (0x51B0, 1 << 30 | 1 << 29 | 1), (0x8220, 1),
            (0x5080, 1 << 10), (0x5090, 4), (0x4A80, 0x8100_0001), (0x3000, 1),
        ):  # fmt: skip
            self.set(offset, value)
        for vf in range(count):
            self.set_address(vf + 1, mac(vf), 1 << vf)
            self.set(0xF000 + 4 * vf, 1 << 27 | 1 << 24)  # broadcasts, untagged frames
        everyone = (1 << count) - 1
        self.set(0x8200, everyone)
        for offset in (0x51E0, 0x8110):
            self.set(offset, everyone)
        self.set(0x18, 1 << 14)

    def set_address(self, entry: int, address: bytes, pools: int) -> None:
        self.set(0xA200 + 8 * entry, int.from_bytes(address[:4], "little"))
        self.set(0xA204 + 8 * entry, int.from_bytes(address[4:], "little") | 1 << 31)
        self.set(0xA600 + 8 * entry, pools & 0xFFFF_FFFF)
        self.set(0xA604 + 8 * entry, pools >> 32)

    def receive(self, frame: bytes) -> None:
        """From the wire, now."""
        self.card.receive(frame, self.now)


class Driver:
    """Drives one pair of queues of a function, in its share of RAM. `vf` None: the physical function, queue 0."""

    def __init__(self, host: Host, vf: int | None = None) -> None:
        self.host, self.vf = host, vf
        self.place = PF if vf is None else place(vf)
        self.base = 0 if vf is None else SHARE * (1 + vf)
        self.rx, self.tx = 0x1000, 0x6000 if vf is None else 0x2000
        self.rx_next = self.tx_next = 0

    @property
    def function(self) -> IxgbeFunction:
        return self.host.function(self.place)

    def get(self, offset: int) -> int:
        return self.function.read(0, offset, 4)

    def set(self, offset: int, value: int) -> None:
        self.function.write(0, offset, 4, value)

    def start(self, *, split: int = 2 | 1 << 25, buffers: int = RING - 1) -> None:
        """Both queues, and an MSI-X vector, 0, for both."""
        for ring, at in ((self.rx, RX), (self.tx, TX)):
            for register, value in ((0, self.base + at), (4, 0), (8, 16 * RING), (0x10, 0), (0x18, 0)):
                self.set(ring + register, value)
        self.set(self.rx + 0x14, split)
        for index in range(RING):
            self.give(index)
        for ring in (self.rx, self.tx):
            self.set(ring + 0x28, ENABLE)
        self.set(self.rx + 0x18, buffers)
        bar = 4 if self.vf is None else 3
        for vector in range(3):
            for word, entry in enumerate((0xFEE0_0000, 0, 0x40 + vector, 0)):
                self.function.write(bar, 16 * vector + 4 * word, 4, entry)
        self.host.configure(self.place, 0x72, 0x8000, 2)
        if self.vf is None:
            self.set(0x900, 0x8080)
            self.set(0x898, 1 << 4 | 1 << 30)
            self.set(0x810, 1)
            self.set(0x880, 1)
        else:
            self.set(0x120, 0x8080)
            self.set(0x140, 0x81)
            self.set(0x110, 3)
            self.set(0x108, 3)

    def start_card(self) -> None:
        """The physical function without virtual ones."""
        self.set(0x3000, 1)
        self.set(0x4A80, 0x8100_0001)
        self.set(0x5080, 1 << 10)
        self.start()

    # --- receiving --------------------------------------------------------------------------------------------

    def give(self, index: int) -> None:
        struct.pack_into("<QQ", self.host.ram, self.base + RX + 16 * index, self.base + RX_BUFFERS + 0x800 * index, 0)

    def take(self) -> tuple[bytes, int, int, int] | None:
        """The next frame: data, status with errors, packet type, VLAN. None: nothing has come."""
        index = self.rx_next % RING
        kind, _, status, length, vlan = struct.unpack_from("<IIIHH", self.host.ram, self.base + RX + 16 * index)
        if not status & 1:
            return None
        at = self.base + RX_BUFFERS + 0x800 * index
        data = bytes(self.host.ram[at : at + length])
        self.give(index)
        self.set(self.rx + 0x18, (index + RING - 1) % RING)
        self.rx_next += 1
        return data, status, kind, vlan

    def taken(self) -> list[bytes]:
        """All frames that have come, whole ones."""
        frames, frame = [], b""
        while (got := self.take()) is not None:
            frame += got[0]
            if got[1] & 2:
                frames.append(frame)
                frame = b""
        return frames

    # --- sending ----------------------------------------------------------------------------------------------

    def put(self, address: int, low: int, high: int) -> int:
        """A descriptor behind those that are there. Returns its index."""
        index = self.tx_next % RING
        struct.pack_into("<QII", self.host.ram, self.base + TX + 16 * index, address, low, high)
        self.tx_next += 1
        return index

    def fill(self, data: bytes, at: int = 0) -> int:
        """Put data into memory; returns where."""
        address = self.base + TX_BUFFERS + at
        self.host.ram[address : address + len(data)] = data
        return address

    def ring(self) -> None:
        self.set(self.tx + 0x18, self.tx_next % RING)

    def send(self, frame: bytes, command: int = 0x2B) -> int:
        """One frame by one advanced descriptor (0x2B: whole, with FCS, tell when sent). Returns its index."""
        index = self.tx_next % RING
        address = self.fill(frame, 0x800 * index)
        self.put(address, len(frame) | 3 << 20 | command << 24, len(frame) << 14)
        self.ring()
        return index

    def done(self, index: int) -> bool:
        return bool(self.host.ram[self.base + TX + 16 * index + 12] & 1)


def frame_to(destination: bytes, source: bytes = OUTSIDE, payload: bytes = b"x" * 46, kind: int = 0x88B5) -> bytes:
    return destination + source + kind.to_bytes(2, "big") + payload
