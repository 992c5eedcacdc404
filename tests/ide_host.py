"""A machine around an IDE controller, for tests: memory, time, ports, and a small host driver after the standard."""

from __future__ import annotations

import struct

from hv.costs import load
from hv.devices.ide import Ide
from hv.host.store import SECTOR, MemoryStore, Store
from hv.silicon.bus import MmioBus, PortBus
from hv.silicon.memory import BusError
from hv.silicon.pci import PciBus

COMMAND, CONTROL, MASTER = (0x1F0, 0x170), (0x3F6, 0x376), (0xC000, 0xC008)
BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
MEMORY = 1 << 20
TABLE, BUFFER = 0x1000, 0x1_0000


class Board:
    """What the controller is plugged into: a MiB of memory at 0, and a clock that the test moves."""

    def __init__(self) -> None:
        self.memory, self.now = bytearray(MEMORY), 0
        self.lines = [False, False]
        self.edges = [0, 0]

    def read(self, address: int, size: int) -> bytes:
        if not 0 <= address <= address + size <= MEMORY:
            raise BusError
        return bytes(self.memory[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        if not 0 <= address <= address + len(data) <= MEMORY:
            raise BusError
        self.memory[address : address + len(data)] = data

    def interrupt(self, level: bool) -> None:
        raise AssertionError("the channels have lines of their own")

    def reschedule(self) -> None:
        pass

    def line(self, number: int, level: bool) -> None:
        self.edges[number] += level and not self.lines[number]
        self.lines[number] = level


class Host:
    """The controller in its slot 00:01.1, and a driver's first steps. `ch` is a channel, 0 or 1."""

    def __init__(self, *stores: Store, enable: bool = True) -> None:
        """Stores by position: primary master, secondary master, primary slave, secondary slave."""
        self.board, self.ports = Board(), PortBus()
        self.bus = PciBus(self.ports, MmioBus(), lambda wire, level: None)
        self.ide = Ide(self.ports, (lambda level: self.board.line(0, level), lambda level: self.board.line(1, level)))
        self.times = load().local
        for at, store in enumerate(stores or (MemoryStore(4096),)):
            self.ide.attach(at & 1, at >> 1, store, self.times, "test disk")
        self.bus.plug(self.ide, 1 << 3 | 1, self.board)
        if enable:
            self.config(0x20, 4, MASTER[0])
            self.config(4, 2, 5)
            self.config(0x40, 4, 0x8000_8000)

    def config(self, offset: int, size: int, value: int) -> None:
        self.bus.config_write(self.ide, offset, size, value)

    # --- ports and time ---------------------------------------------------------------------------------------

    def inp(self, port: int, size: int = 1) -> int:
        return self.ports.read(port, size)

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.ports.write(port, size, value)

    def pass_time(self) -> bool:
        """Let the next thing happen. False: nothing will."""
        due = self.ide.deadline
        if due is None:
            return False
        self.board.now = max(self.board.now, due)
        self.ide.advance(self.board.now)
        return True

    def settle(self, ch: int = 0) -> int:
        """Wait for the channel to be not busy, by the alternate status. Returns it."""
        while (status := self.inp(CONTROL[ch])) & BSY and self.pass_time():
            pass
        return status

    # --- commands ---------------------------------------------------------------------------------------------

    def registers(self, *values: int, ch: int = 0) -> None:
        """Feature, count, LBA low, mid, high, device: as many as are given."""
        for offset, value in enumerate(values, 1):
            self.out(COMMAND[ch] + offset, value)

    def command(self, code: int, *values: int, ch: int = 0) -> int:
        """Write the registers and a command, wait, and return the status."""
        self.registers(*values, ch=ch)
        self.out(COMMAND[ch] + 7, code)
        self.settle(ch)
        return self.inp(COMMAND[ch] + 7)

    def address(self, form: str, lba: int, count: int, *, ch: int = 0, drive: int = 0, geometry: int = 16) -> None:
        """The registers for an address in form "chs" (63 sectors a track), "lba28" or "lba48"."""
        if form == "lba48":
            self.registers(0, count >> 8, lba >> 24 & 0xFF, lba >> 32 & 0xFF, lba >> 40 & 0xFF, ch=ch)
        if form == "chs":
            track, place = divmod(lba, 63)
            cylinder, head = divmod(track, geometry)
            self.registers(0, count & 0xFF, place + 1, cylinder & 0xFF, cylinder >> 8, 0xA0 | drive << 4 | head, ch=ch)
            return
        head = lba >> 24 & 0xF if form == "lba28" else 0
        self.registers(0, count & 0xFF, lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF, 0xE0 | drive << 4 | head, ch=ch)

    def read_pio(self, code: int, *, ch: int = 0) -> bytes:
        """Give the command and fetch all its data, 16 bits at a time."""
        data = bytearray()
        self.out(COMMAND[ch] + 7, code)
        while self.settle(ch) & DRQ:
            data += self.inp(COMMAND[ch], 2).to_bytes(2, "little")
        return bytes(data)

    def write_pio(self, code: int, data: bytes, *, ch: int = 0) -> int:
        """Give the command and bring its data. Returns the last status."""
        self.out(COMMAND[ch] + 7, code)
        at = 0
        while (status := self.settle(ch)) & DRQ:
            self.out(COMMAND[ch], int.from_bytes(data[at : at + 2], "little"), 2)
            at += 2
        return status

    def table(self, *regions: tuple[int, int], end: bool = True) -> None:
        """A table of regions (address, bytes) at TABLE."""
        for i, (address, size) in enumerate(regions):
            flags = 0x8000 if end and i == len(regions) - 1 else 0
            self.board.write(TABLE + 8 * i, struct.pack("<IHH", address, size & 0xFFFF, flags))

    def start_master(self, *, to_memory: bool, ch: int = 0) -> None:
        self.out(MASTER[ch] + 4, TABLE, 4)
        self.out(MASTER[ch] + 2, 6)
        self.out(MASTER[ch], 8 * to_memory)
        self.out(MASTER[ch], 8 * to_memory | 1)

    def dma(self, code: int, *, to_memory: bool, ch: int = 0) -> int:
        """A DMA command with the table that is there. Returns the bus master's status, and stops it."""
        self.start_master(to_memory=to_memory, ch=ch)
        self.out(COMMAND[ch] + 7, code)
        while not self.inp(MASTER[ch] + 2) & 4 and self.pass_time():
            pass
        status = self.inp(MASTER[ch] + 2)
        self.out(MASTER[ch], 0)
        return status


def numbered(sectors: int) -> MemoryStore:
    """A store whose sectors carry their number."""
    store = MemoryStore(sectors)
    store.write(0, b"".join(struct.pack("<I", i) * (SECTOR // 4) for i in range(sectors)))
    return store
