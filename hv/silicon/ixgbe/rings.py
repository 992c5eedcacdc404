"""The queues: rings of descriptors in the host's memory, and their registers (7.1.8, 7.2.3, 8.2.3.8 and 8.2.3.9).

The same registers are there for the physical function, which has them all, and for a virtual one, which has its own.
"""

from __future__ import annotations

import msgspec

DESCRIPTOR = 16  # bytes
STRIDE = 0x40  # from the registers of one queue to those of the next
ENABLE = 1 << 25  # RXDCTL, TXDCTL
VLAN_STRIP = 1 << 30  # RXDCTL
DROP = 1 << 28  # SRRCTL
BUFFER_KIB, KIND_SHIFT, LEGACY = 0x1F, 25, 0  # SRRCTL: size of a buffer, form of a descriptor
HEAD_WRITE_BACK = 1 << 0  # TDWBAL


class Ring(msgspec.Struct):
    """A ring of `length` bytes at `high` << 32 | `low`; software owns the descriptors from tail to head."""

    low: int = 0
    high: int = 0
    length: int = 0
    head: int = 0
    tail: int = 0
    control: int = 0
    dca: int = 0  # direct cache access and order on the bus: kept, and without effect

    @property
    def enabled(self) -> bool:
        return bool(self.control & ENABLE)

    @property
    def size(self) -> int:
        """Descriptors."""
        return self.length // DESCRIPTOR

    @property
    def available(self) -> int:
        """Descriptors that the card may use. A head or tail outside the ring: none."""
        size = self.size
        return (self.tail - self.head) % size if self.head < size and self.tail < size else 0

    @property
    def at(self) -> int:
        """Bus address of the descriptor at the head."""
        return (self.high << 32 | self.low) + DESCRIPTOR * self.head

    def step(self) -> None:
        self.head = (self.head + 1) % self.size


class RxRing(Ring):
    dca: int = 0x3200
    split: int = 0x402  # SRRCTL: buffers of 2 KiB, 256 bytes for headers
    rsc: int = 0
    drop: bool = False  # QDE


class Segmentation(msgspec.Struct):
    """A long packet on its way out: what stands in front of each segment, and how far it has come."""

    context: bytes  # descriptor
    options: int
    tag: int | None
    header: bytes
    payload: bytes
    sent: int = 0  # bytes of the payload
    index: int = 0


class TxRing(Ring):
    dca: int = 0x2A00
    write_back_low: int = 0
    write_back_high: int = 0
    contexts: list[bytes] = msgspec.field(default_factory=lambda: [bytes(16), bytes(16)])
    packet: bytearray = msgspec.field(default_factory=bytearray)  # that is being put together
    command: int | None = None  # of its first descriptor, with what that one says of offload
    options: int = 0
    cutting: Segmentation | None = None


# Registers of a queue by their distance from the first: field, and the bits that a write changes.
COMMON: dict[int, tuple[str, int]] = {
    0x00: ("low", 0xFFFF_FF80),
    0x04: ("high", 0xFFFF_FFFF),
    0x08: ("length", 0x000F_FF80),
    0x0C: ("dca", 0xFFFF_FFFF),
    0x10: ("head", 0xFFFF),
    0x18: ("tail", 0xFFFF),
}
RX_FIELDS = COMMON | {0x14: ("split", 0x1FC0_3F1F | 0xE00_0000), 0x28: ("control", 0x4200_0000), 0x2C: ("rsc", 0xD)}
TX_FIELDS = COMMON | {
    0x28: ("control", 0x027F_7F7F),
    0x38: ("write_back_low", 0xFFFF_FFFD),
    0x3C: ("write_back_high", 0xFFFF_FFFF),
}
TAIL, CONTROL, SPLIT, DCA = 0x18, 0x28, 0x14, 0x0C


def read_ring(ring: Ring, at: int) -> int:
    """A register of a queue; 0 where there is none."""
    named = (RX_FIELDS if isinstance(ring, RxRing) else TX_FIELDS).get(at)
    value: int = getattr(ring, named[0]) if named else 0
    return value


def write_ring(ring: Ring, at: int, value: int) -> None:
    """The register's part of a write. What it starts is for the caller."""
    if at == TAIL:  # a doorbell: the write that happens most
        ring.tail = value & 0xFFFF
        return
    named = (RX_FIELDS if isinstance(ring, RxRing) else TX_FIELDS).get(at)
    if named is None:
        return
    name, writable = named
    setattr(ring, name, getattr(ring, name) & ~writable | value & writable)
    if at == CONTROL and isinstance(ring, TxRing) and not ring.enabled:
        ring.packet, ring.command, ring.cutting = bytearray(), None, None
