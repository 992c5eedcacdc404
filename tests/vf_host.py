"""A driver of an 82599's virtual function, played by a test, and guests side by side that have one each.

It shares no numbers with hv/silicon/ixgbe: registers, descriptors and messages are written out here once more, after
the data sheet (331520) and what Linux's drivers say to each other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hv.host.outside import Outside
from hv.neighbours import Neighbours, ethernet_address
from hv.silicon.pci import BAR0
from hv.vm import Vm
from tests.spinning_guest import SpinningGuest

NET = 3 << 3  # the place on the guest's board
WINDOW, MSIX_WINDOW = 0xFE00_0000, 0xFE01_0000
CTRL, EIMS, EIMC, IVAR, MEMORY, MAILBOX = 0x0000, 0x0108, 0x010C, 0x0120, 0x0200, 0x02FC
RX, TX = 0x1000, 0x2000
LOW, HIGH, LENGTH, HEAD, SPLIT, TAIL, CONTROL, WRITE_BACK = 0x00, 0x04, 0x08, 0x10, 0x14, 0x18, 0x28, 0x38
ENABLE = 1 << 25
DATA = 3 << 20 | 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29  # EOP, IFCS, RS, DEXT
RING, BUFFER = 32, 2048
RESET, SET_ADDRESS, NEGOTIATE = 1, 2, 8
ACK, NACK, CTS = 1 << 31, 1 << 30, 1 << 29
EVERYBODY = b"\xff" * 6


def frame(to: bytes, source: bytes, payload: bytes = b"") -> bytes:
    """An Ethernet frame of an experimental type, without FCS."""
    return (to + source + b"\x88\xb5" + payload).ljust(60, b"\0")


class NetGuest(SpinningGuest):
    """A guest that spins and has a virtual function of the network card, of which the test is the driver."""

    columns = ("net",)
    windows = {NET: {BAR0: WINDOW, BAR0 + 12: MSIX_WINDOW}}


class World:
    """Guests on one card. `heard` is what goes over the wire."""

    def __init__(self, guests: int = 2) -> None:
        self.neighbours = Neighbours([Outside() for _ in range(guests)])
        self.guests = [NetGuest(self.neighbours, outside) for outside in self.neighbours.outsides]
        self.heard: list[bytes] = []
        wire = self.neighbours.outsides[0].wire
        assert wire is not None
        self.say = wire.plug_card(lambda frame, at: self.heard.append(frame))
        self.drivers = [VfDriver(self, guest) for guest in self.guests]

    @property
    def vms(self) -> list[Vm]:
        return [guest.vm for guest in self.guests]

    def pass_time(self, microseconds: int = 100) -> None:
        """The guests go on counting, or this fails."""
        before = [guest.count() for guest in self.guests]
        self.neighbours.run(max(vm.now for vm in self.vms) + microseconds * 2_500_000)
        for number, (guest, count) in enumerate(zip(self.guests, before, strict=True)):
            assert guest.count() > count, f"guest {number} has stopped: {guest.vm.machine.ended}"

    def close(self) -> None:
        for vm in self.vms:
            vm.close()


class VfDriver:
    """Its rings lie in the guest's RAM from `base`, then 64 KiB of buffers each for sending and receiving."""

    def __init__(self, world: World, guest: NetGuest, base: int = 0x4_0000) -> None:
        self.world, self.guest, self.base = world, guest, base
        self.rings = {TX: base, RX: base + 0x1000}
        self.buffers = {TX: base + 0x1_0000, RX: base + 0x2_0000}
        self.address = b""
        self.sent = self.taken = 0

    def get(self, offset: int) -> int:
        return self.guest.function(NET).read(0, offset, 4)

    def set(self, offset: int, value: int) -> None:
        self.guest.function(NET).write(0, offset, 4, value & 0xFFFF_FFFF)

    # --- the mailbox ------------------------------------------------------------------------------------------

    def post(self, *words: int) -> None:
        """Write a message and ring."""
        self.set(MAILBOX, 4)
        for at, word in enumerate(words):
            self.set(MEMORY + 4 * at, word)
        self.set(MAILBOX, 1)

    def ask(self, *words: int, answer: int = 4) -> Sequence[int]:
        """A message and its answer."""
        self.get(MAILBOX)
        self.post(*words)
        self.world.pass_time()
        assert self.get(MAILBOX) & 0x30 == 0x30, "no answer"
        self.set(MAILBOX, 4)
        words = tuple(self.get(MEMORY + 4 * at) for at in range(answer))
        self.set(MAILBOX, 2)
        return words

    def reset(self) -> None:
        self.set(CTRL, 1 << 26)
        first, low, high, _ = self.ask(RESET)
        assert first & ~CTS == RESET | ACK
        self.address = struct.pack("<II", low, high)[:6]

    # --- queues -----------------------------------------------------------------------------------------------

    def start(self) -> VfDriver:
        """Reset, and set up one queue of each kind."""
        self.reset()
        self.sent = self.taken = 0
        for queue, ring in self.rings.items():
            self.guest.ram[ring : ring + 0x1000] = bytes(0x1000)
            self.place(queue, ring)
        for i in range(RING):
            self.offer(i, self.buffers[RX] + BUFFER * i)
        self.set(RX + TAIL, RING - 1)
        self.world.pass_time(10)
        return self

    def place(self, queue: int, address: int) -> None:
        """A queue begins afresh, with its ring at an address."""
        self.set(queue + CONTROL, 0)
        self.set(queue + LOW, address)
        self.set(queue + HIGH, address >> 32)
        self.set(queue + LENGTH, 16 * RING)
        self.set(queue + HEAD, 0)
        self.set(queue + TAIL, 0)
        if queue == RX:
            self.set(RX + SPLIT, 2 | 1 << 25 | 1 << 28)
        self.set(queue + CONTROL, ENABLE)

    def offer(self, index: int, address: int) -> None:
        """A buffer to receive into."""
        at = self.rings[RX] + 16 * index
        self.guest.ram[at : at + 16] = struct.pack("<QQ", address & (1 << 64) - 1, 0)

    def put(self, data: bytes, address: int | None = None) -> None:
        """A descriptor for a frame, without the doorbell; `address` is what it says, wherever the frame is."""
        index = self.sent % RING
        self.sent += 1
        buffer = self.buffers[TX] + BUFFER * index
        self.guest.ram[buffer : buffer + len(data)] = data
        at = self.rings[TX] + 16 * index
        self.guest.ram[at : at + 16] = struct.pack(
            "<QII", buffer if address is None else address, len(data) | DATA, len(data) << 14
        )

    def ring(self) -> None:
        self.set(TX + TAIL, self.sent % RING)

    def send(self, data: bytes, address: int | None = None) -> None:
        """From the guest to wherever it goes, and long enough for that."""
        self.put(data, address)
        self.ring()
        self.world.pass_time()

    def reported(self) -> int:
        """So many of the ring's descriptors are reported as done."""
        ring = self.rings[TX]
        return sum(self.guest.ram[at + 12 : at + 13][0] & 1 for at in range(ring, ring + 16 * RING, 16))

    def received(self) -> list[bytes]:
        """Frames that have come in since this was last asked; their buffers are given back."""
        frames = []
        while True:
            index = self.taken % RING
            at = self.rings[RX] + 16 * index
            _, status, length = struct.unpack("<QIH", self.guest.ram[at : at + 14])
            if not status & 1:
                break
            buffer = self.buffers[RX] + BUFFER * index
            frames.append(self.guest.ram[buffer : buffer + length])
            self.offer(index, buffer)
            self.taken += 1
        if frames:
            self.set(RX + TAIL, (self.taken - 1) % RING)
        return frames


def addresses(count: int) -> list[bytes]:
    return [ethernet_address(number) for number in range(count)]
