"""An 82540EM on the bench: a slot with RAM and a clock of its own, a list for the wire, and a driver's small words."""

from __future__ import annotations

import struct

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.nic import E1000, MEMORY_BAR
from hv.silicon.memory import BusError

TSC_HZ = 2_500_000_000
NS = TSC_HZ * 1000 // 10**9  # millicycles
MAC = bytes.fromhex("026876000001")
OTHER = bytes.fromhex("026876000002")
RAM = 1 << 20
TX_RING, RX_RING, TX_BUFFERS, RX_BUFFERS = 0x1000, 0x2000, 0x1_0000, 0x8_0000
RING = 16  # descriptors
EOP, IFCS, IC, TSE, RS, DEXT, VLE, IDE = 1, 2, 4, 4, 8, 32, 64, 128


class BenchSlot:
    """RAM from 0, and a device's registers (no RAM) above it."""

    def __init__(self) -> None:
        self.ram = bytearray(RAM)
        self.now = 0
        self.level = False
        self.reads = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        if not 0 <= address <= RAM - size:
            raise BusError(f"no RAM at {address:#x}")
        return bytes(self.ram[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        if not 0 <= address <= RAM - len(data):
            raise BusError(f"no RAM at {address:#x}")
        self.ram[address : address + len(data)] = data

    def fill(self, address: int, data: bytes) -> None:
        """The driver's own write."""
        self.ram[address : address + len(data)] = data

    def interrupt(self, level: bool) -> None:
        self.level = level

    def reschedule(self) -> None:
        pass


class NicBench:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, int]] = []
        self.nic = E1000(TSC_HZ, MAC)
        self.nic.connect(lambda frame, at: self.sent.append((frame, at)))
        self.slot = BenchSlot()
        self.nic.slot = self.slot

    def __getitem__(self, offset: int) -> int:
        return self.nic.read(MEMORY_BAR, offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.nic.write(MEMORY_BAR, offset, 4, value)

    @property
    def frames(self) -> list[bytes]:
        return [frame for frame, _ in self.sent]

    def line(self) -> bool:
        """The interrupt line."""
        return self.slot.level

    def pass_time(self, ns: int) -> None:
        self.slot.now += ns * NS
        self.nic.advance(self.slot.now)

    def start_transmitter(self, ring: int = RING) -> None:
        self[reg.CTRL] |= reg.CTRL_SLU
        self[reg.TDBAL], self[reg.TDBAH], self[reg.TDLEN] = TX_RING, 0, 16 * ring
        self[reg.TDH] = self[reg.TDT] = 0
        self[reg.TCTL] = reg.TCTL_EN | reg.TCTL_PSP

    def start_receiver(self, control: int = reg.RCTL_BAM | reg.RCTL_SECRC, descriptors: int = RING - 1) -> None:
        self[reg.CTRL] |= reg.CTRL_SLU
        self[reg.RDBAL], self[reg.RDBAH], self[reg.RDLEN] = RX_RING, 0, 16 * RING
        for i in range(RING):
            self.slot.fill(RX_RING + 16 * i, struct.pack("<QQ", RX_BUFFERS + i * 0x4000, 0))
        self[reg.RDH], self[reg.RDT] = 0, descriptors
        self[reg.RCTL] = control | reg.RCTL_EN

    def put(self, index: int, address: int, low: int, high: int = 0) -> None:
        """A transmit descriptor."""
        self.slot.fill(TX_RING + 16 * index, struct.pack("<QII", address, low, high))

    def transmit(self, packet: bytes, command: int = EOP | IFCS | RS, cso: int = 0, high: int = 0) -> None:
        """One legacy descriptor at the tail."""
        index = self[reg.TDT]
        self.slot.fill(TX_BUFFERS, packet)
        self.put(index, TX_BUFFERS, len(packet) | cso << 16 | command << 24, high)
        self[reg.TDT] = (index + 1) % RING

    def tx_status(self, index: int) -> int:
        return self.slot.ram[TX_RING + 16 * index + 12]

    def receive(self, frame: bytes) -> None:
        self.nic.receive(frame, self.slot.now)

    def received(self, index: int) -> tuple[bytes, int, int, int, int]:
        """Data, checksum, status, errors, special of a receive descriptor."""
        address, length, checksum, status, errors, special = struct.unpack(
            "<QHHBBH", self.slot.read(RX_RING + 16 * index, 16)
        )
        return self.slot.read(address, length), checksum, status, errors, special


def frame_to(destination: bytes, payload: bytes = b"x" * 46, kind: int = 0x0800, source: bytes = OTHER) -> bytes:
    return destination + source + kind.to_bytes(2, "big") + payload
