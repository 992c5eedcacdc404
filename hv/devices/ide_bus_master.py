"""The bus master of one IDE channel ("Programming Interface for Bus Master IDE Controller", rev. 1.0; Intel 82371SB
data sheet, 2.7): it walks a table of physical regions and moves a drive's data.

A table entry is 8 bytes: address, byte count (0 means 64 KiB), and in the last word bit 15 for the last entry. Address
and count are even: their bits 0 read as 0. The table's pointer counts within its 64 KiB, as the standard says that a
table lies. Simplified: a region that crosses a 64 KiB boundary, which the standard forbids, goes on behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from hv.silicon.device import Slot
from hv.silicon.memory import BusError

COMMAND, STATUS, TABLE = 0, 2, 4  # registers; the table pointer has four bytes
START, TO_MEMORY = 0x01, 0x08  # command
ACTIVE, ERROR, INTERRUPT, CAPABLE = 0x01, 0x02, 0x04, 0x60  # status; CAPABLE: software's note about each drive
END_OF_TABLE = 0x8000
WINDOW = 0x1_0000  # the table lies within 64 KiB, and a count of 0 means so much


class BusMasterState(msgspec.Struct):
    """Everything that the bus master remembers."""

    command: int = 0
    status: int = 0
    table: int = 0
    entry: int = 0  # address of the next table entry
    address: int = 0  # where in the current region
    left: int = 0  # bytes left of it
    last: bool = False  # it is the table's last


class BusMaster:
    """`slot()` is the machine's memory, `started()` is called when the host starts it."""

    def __init__(self, slot: Callable[[], Slot], started: Callable[[], None]) -> None:
        self.slot, self.started = slot, started
        self.state = BusMasterState()

    # --- registers --------------------------------------------------------------------------------------------

    def read(self, offset: int) -> int:
        """One byte."""
        s = self.state
        if offset == COMMAND:
            return s.command
        if offset == STATUS:
            return s.status
        return s.table >> 8 * (offset - TABLE) & 0xFF if offset >= TABLE else 0

    def write(self, offset: int, value: int) -> None:
        """One byte."""
        s = self.state
        if offset == COMMAND:
            self._command(value)
        elif offset == STATUS:  # ERROR and INTERRUPT are cleared by writing them
            s.status = s.status & ~(value & (ERROR | INTERRUPT)) & ~CAPABLE | value & CAPABLE
        elif offset >= TABLE:
            shift = 8 * (offset - TABLE)
            s.table = (s.table & ~(0xFF << shift) | value << shift) & 0xFFFF_FFFC

    def _command(self, value: int) -> None:
        s = self.state
        before, s.command = s.command, value & (START | TO_MEMORY)
        if value & START and not before & START:
            s.status |= ACTIVE
            s.entry, s.left, s.last = s.table, 0, False
            self.started()
        elif before & START and not value & START:
            s.status &= ~ACTIVE  # where it was is forgotten

    def interrupted(self) -> None:
        """The drive's interrupt line has gone up."""
        self.state.status |= INTERRUPT

    # --- data -------------------------------------------------------------------------------------------------

    def ready(self, *, to_memory: bool) -> bool:
        s = self.state
        return bool(s.status & ACTIVE) and bool(s.command & TO_MEMORY) == to_memory

    def push(self, data: bytes) -> int:
        """Data for memory; returns how many bytes were taken."""
        done = 0
        try:
            while done < len(data) and self._region():
                part = data[done : done + self.state.left]
                self.slot().write(self.state.address, part)
                self._moved(len(part))
                done += len(part)
        except BusError:
            self._abort()
        return done

    def pull(self, size: int) -> bytes:
        """Data from memory, as far as the table goes."""
        data = bytearray()
        try:
            while len(data) < size and self._region():
                part = self.slot().read(self.state.address, min(size - len(data), self.state.left))
                self._moved(len(part))
                data += part
        except BusError:
            self._abort()
        return bytes(data)

    def _region(self) -> bool:
        """There is a region to go on with; if need be, the next entry of the table is read."""
        s = self.state
        if not s.left and s.status & ACTIVE:
            s.address, s.left, flags = struct.unpack("<IHH", self.slot().read(s.entry, 8))
            s.address, s.left, s.last = s.address & ~1, s.left & ~1 or WINDOW, bool(flags & END_OF_TABLE)
            s.entry = s.entry & ~(WINDOW - 1) | s.entry + 8 & WINDOW - 1
        return bool(s.status & ACTIVE)

    def _moved(self, size: int) -> None:
        s = self.state
        s.address, s.left = s.address + size & 0xFFFF_FFFF, s.left - size
        if not s.left and s.last:
            s.status &= ~ACTIVE

    def _abort(self) -> None:
        """There is no memory at that address."""
        s = self.state
        s.status = s.status & ~ACTIVE | ERROR
        s.left = 0
