"""PCI Express, as software sees it: 4096 bytes of configuration space, function level reset, MSI-X.

PCI Express Base Specification 3.0, chapter 7; MSI-X: PCI Local Bus Specification 3.0, 6.8.2.
Simplified: no links, so every function is a root complex integrated endpoint; no error reporting, no power states.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from hv.silicon.memory import BusError
from hv.silicon.pci import Function, Header, PciBus

# Where our cards have their capabilities: Intel's 82599 has them there.
MSIX, EXPRESS = 0x70, 0xA0
MSIX_ID, EXPRESS_ID = 0x11, 0x10
DEVICE_CONTROL = EXPRESS + 8
INITIATE_RESET = 0x80  # bit 15 of device control, in its second byte
MSIX_ENABLE, MSIX_MASK = 0x80, 0x40  # bits 15 and 14 of message control, in its second byte
ENTRY = 16  # bytes of an entry of the table: address, data, control
ENTRY_MASKED = 1


class MsixState(msgspec.Struct):
    """The table as bytes, and the vectors that wait for being unmasked (a bit each)."""

    table: bytearray
    pending: int = 0


def msix_state(vectors: int) -> MsixState:
    """A table as a reset leaves it: everything masked."""
    return MsixState(bytearray((bytes(12) + ENTRY_MASKED.to_bytes(4, "little")) * vectors))


class Msix:
    """The MSI-X unit of a function, whose `state.msix` holds what it remembers.

    Table and pending bits lie behind window `bar` at `table` and `pba`; the window's owner hands accesses on.
    """

    def __init__(self, function: ExpressFunction, vectors: int, bar: int, table: int, pba: int) -> None:
        self.function, self.vectors, self.bar, self.table, self.pba = function, vectors, bar, table, pba
        self.table_end = table + ENTRY * vectors
        body = (
            (vectors - 1).to_bytes(2, "little")
            + (table | bar).to_bytes(4, "little")
            + (pba | bar).to_bytes(4, "little")
        )
        function.capability(MSIX, MSIX_ID, body, b"\0" + bytes([MSIX_ENABLE | MSIX_MASK]))

    @property
    def state(self) -> MsixState:
        state: MsixState = self.function.state.msix
        return state

    @property
    def enabled(self) -> bool:
        return bool(self.function.config[MSIX + 3] & MSIX_ENABLE)

    def claims(self, offset: int) -> bool:
        """Is this register of the window one of the table or the pending bits?"""
        return self.table <= offset < self.table_end or self.pba <= offset < self.pba + 8

    def read(self, offset: int, size: int) -> int:
        if offset >= self.pba:
            return self.state.pending >> 8 * (offset - self.pba) & (1 << 8 * size) - 1
        at = offset - self.table
        return int.from_bytes(self.state.table[at : at + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Only whole aligned words reach the table (6.8.2.6); the pending bits are read-only."""
        at = offset - self.table
        table = self.state.table
        if size < 4 or at % size or not 0 <= at <= len(table) - size:
            return
        table[at : at + size] = value.to_bytes(size, "little")
        control = at // ENTRY * ENTRY + 12
        table[control : control + 4] = (table[control] & ENTRY_MASKED).to_bytes(4, "little")
        self.send_pending()

    def entry(self, vector: int) -> tuple[int, int, bool]:
        """Address and data of a vector's message, and whether it is masked, alone or with all the others."""
        entry = self.state.table[vector * ENTRY : (vector + 1) * ENTRY]
        masked = bool(entry[12] & ENTRY_MASKED or self.function.config[MSIX + 3] & MSIX_MASK)
        return int.from_bytes(entry[:8], "little") & ~3, int.from_bytes(entry[8:12], "little"), masked

    def fire(self, vector: int) -> None:
        """Send a vector's message, or remember it while it is masked."""
        if not self.enabled or vector >= self.vectors:
            return
        address, data, masked = self.entry(vector)
        if masked:
            self.state.pending |= 1 << vector
            return
        self.state.pending &= ~(1 << vector)
        try:
            self.function.slot.write(address, data.to_bytes(4, "little"))
        except BusError:
            return  # whoever is in charge of the address has recorded it

    def send_pending(self) -> None:
        """Something may have been unmasked."""
        pending = self.state.pending
        for vector in range(pending.bit_length()):
            if pending >> vector & 1:
                self.fire(vector)


class ExpressFunction(Function):
    """A function with an Express capability. `reset()` is for the subclass: put the registers back."""

    config_size: ClassVar[int] = 4096
    state: Any
    msix: Msix | None = None

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        body = bytearray(0x3A)
        body[0] = 0x92  # version 2, root complex integrated endpoint
        body[2:6] = (1 << 28 | 1 << 15).to_bytes(4, "little")  # function level reset; role-based error reporting
        writable = bytearray(0x3A)
        writable[6:8] = b"\xff\x7f"
        self.capability(EXPRESS, EXPRESS_ID, bytes(body), bytes(writable))

    def extended_capability(self, offset: int, id: int, size: int, version: int = 1) -> None:
        """Put an extended capability (PCI Express 3.0, 7.9.3) behind those that are there. Its body is register()s."""
        last = 0x100
        while following := self.word(last) >> 20:
            last = following
        if offset != last:
            self.register(last, 4, self.word(last) & 0xF_FFFF | offset << 20)
        self.register(offset, 4, id | version << 16)
        assert offset + size <= self.config_size

    def word(self, offset: int, size: int = 4) -> int:
        """A register in configuration space."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        super().config_write(offset, size, value)
        at = DEVICE_CONTROL + 1
        if offset <= at < offset + size and value >> 8 * (at - offset) & INITIATE_RESET:
            self.function_level_reset()
        if self.msix is not None and offset <= MSIX + 3 < offset + size:
            self.msix.send_pending()

    def function_level_reset(self) -> None:
        """Everything that software can change goes back (PCI Express 3.0, 6.6.2)."""
        for at, writable in enumerate(self._writable):
            self.config[at] &= ~writable
        self.reset()
        self.bus.remap()

    def reset(self) -> None:
        """Put the registers behind the windows back, and forget what is under way."""


class Ecam:
    """Configuration space in memory (PCI Express 3.0, 7.2.2): 4096 bytes a function, a MiB a bus."""

    def __init__(self, bus: PciBus) -> None:
        self.bus = bus

    def mmio_read(self, offset: int, size: int) -> int:
        function = self.bus.find(offset >> 12)
        if function is None or offset & 0xFFF > 0x1000 - size:
            return (1 << 8 * size) - 1
        return function.config_read(offset & 0xFFF, size)

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        function = self.bus.find(offset >> 12)
        if function is not None and offset & 0xFFF <= 0x1000 - size:
            self.bus.config_write(function, offset & 0xFFF, size, value)
