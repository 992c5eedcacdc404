"""The IOMMU: what a card may reach, and whom its interrupts reach (AMD I/O Virtualization Technology, rev. 3.05).

One thing in it is Intel's: the entries of the interrupt tables are those of VT-d (specification 9.10 and 9.11), because
those can post an interrupt: instead of sending it, the IOMMU sets the vector's bit in a descriptor (posted.py) and, if
that asks for it, sends a notification.

A request carries the function that makes it: bus << 8 | device << 3 | function. That is an index into the device table
in memory, whose entry (2.2.2.1) leads to page tables for DMA (2.2.3) and to a table for interrupts (2.2.5.1). What they
do not allow is blocked, the card gets an abort, and a fault is recorded; the guest goes on.
Simplified: commands are calls (`invalidate`), and the event log is a list; no guest translation, no page requests, no
exclusion range, no default-page-size trick (next level 7); the reserved bits of entries are not looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from hv.silicon.memory import BusError, Memory
from hv.silicon.posted import Descriptor

PAGE = 0x1000
ADDRESS = 0x000F_FFFF_FFFF_F000
# Device table entry: 32 bytes.
ENTRY = 32
VALID, TRANSLATES = 1 << 0, 1 << 1  # first word
MODE = 9  # bits 11:9: levels of the page tables (0: addresses stay what they are)
READ, WRITE = 1 << 61, 1 << 62  # first word, and each entry of the page tables
INTERRUPTS_VALID = 1 << 0  # third word: bit 128
TABLE_LENGTH, TABLE_ROOT = 1, 0x000F_FFFF_FFFF_FFC0  # bits 132:129 log2 of the entries; 179:134
CONTROL, PASS, REMAP = 60, 1, 2  # bits 189:188: abort, pass, remap
# Page table entry.
PRESENT, NEXT_LEVEL = 1 << 0, 9  # bits 11:9; 0: this entry is for a page
# Interrupt remapping table entry: 16 bytes; bits 23:16 vector. Remapped: 7:5 delivery mode (0 fixed), 47:40 destination
# (xAPIC). Posted: the descriptor's address, bits 31:6 in 63:38 and 63:32 in 127:96.
REMAP_ENTRY = 16
REMAP_ENABLE, URGENT, POSTED = 1 << 0, 1 << 14, 1 << 15
DESTINATION, VECTOR = 40, 16
MESSAGES = 0xFEE  # address bits 31:20 of an interrupt message
MOST_FAULTS = 256


class Fault(msgspec.Struct, frozen=True):
    """A request that was blocked. `kind`: "dma" or "interrupt", or "device" where the table has no valid entry."""

    function: int
    address: int
    write: bool
    kind: str


class IommuState(msgspec.Struct):
    """The registers, and the event log. `lost` faults found it full."""

    device_table: int | None = None  # None: switched off, and everything passes
    entries: int = 0
    faults: list[Fault] = []
    lost: int = 0


class Blocked(Exception):
    """Inside: why a walk has ended."""


class Iommu:
    """`deliver(destination, vector)` carries a card's interrupt to a physical CPU, `notify` the news that something was
    posted; an empty table gives identity."""

    def __init__(
        self, memory: Memory, deliver: Callable[[int, int], None], notify: Callable[[int, int], None]
    ) -> None:  # fmt: skip
        self.memory, self.deliver, self.notify = memory, deliver, notify
        self.state = IommuState()
        self._cache: dict[tuple[int, int], tuple[int, int]] = {}  # (function, page) -> frame and rights

    def enable(self, device_table: int, entries: int) -> None:
        """Set the device table's place and size."""
        self.state.device_table, self.state.entries = device_table, entries
        self.invalidate()

    def invalidate(self) -> None:
        """Forget what was read from tables; to be called by whoever takes permissions away."""
        self._cache.clear()

    # --- requests ---------------------------------------------------------------------------------------------

    def translate(self, function: int, address: int, *, write: bool) -> int:
        """The physical address behind a card's, within one page. Where there is none: a fault, and BusError."""
        if self.state.device_table is None:
            return address
        key = function, address // PAGE
        try:
            if key not in self._cache:
                self._cache[key] = self._walk(function, address)
            frame, rights = self._cache[key]
            if not rights & (WRITE if write else READ):
                raise Blocked("dma")
        except Blocked as blocked:
            self.record(Fault(function, address, write, str(blocked)))
            raise BusError(f"function {function:#x} may not reach {address:#x}") from None
        return frame | address % PAGE

    def interrupt(self, function: int, address: int, data: int) -> None:
        """A card has written `data` to the interrupt messages' addresses. Raises BusError where it may not."""
        if self.state.device_table is None:
            self.deliver(address >> 12 & 0xFF, data & 0xFF)
            return
        try:
            low, high = self._remap(function, data)
            if low & POSTED:
                self._post(low, high)
            else:
                self.deliver(low >> DESTINATION & 0xFF, low >> VECTOR & 0xFF)
        except Blocked as blocked:
            self.record(Fault(function, address, True, str(blocked)))
            raise BusError(f"function {function:#x} may not send interrupt {data:#x}") from None

    def _post(self, low: int, high: int) -> None:
        """Post instead of sending (VT-d 5.2.2)."""
        try:
            descriptor = Descriptor(self.memory, low >> 38 << 6 | high >> 32 << 32)
        except BusError:
            raise Blocked("interrupt") from None
        notification = descriptor.post(low >> VECTOR & 0xFF, urgent=bool(low & URGENT))
        if notification is not None:
            self.notify(*notification)

    def record(self, fault: Fault) -> None:
        if len(self.state.faults) < MOST_FAULTS:
            self.state.faults.append(fault)
        else:
            self.state.lost += 1

    # --- tables -----------------------------------------------------------------------------------------------

    def _words(self, address: int, form: str) -> tuple[int, ...]:
        try:
            return struct.unpack(form, self.memory.read(address, struct.calcsize(form)))
        except BusError:
            raise Blocked("device") from None

    def _entry(self, function: int) -> tuple[int, ...]:
        """A function's entry in the device table: four words of 64 bits."""
        base = self.state.device_table
        if base is None or function >= self.state.entries:
            raise Blocked("device")
        return self._words(base + ENTRY * function, "<4Q")

    def _walk(self, function: int, address: int) -> tuple[int, int]:
        """Frame and rights of a page."""
        entry = self._entry(function)[0]
        if not entry & VALID:
            return address & ~(PAGE - 1), READ | WRITE
        if not entry & TRANSLATES:
            raise Blocked("device")
        level, rights = entry >> MODE & 7, entry & (READ | WRITE)
        if level == 0:
            return address & ~(PAGE - 1), rights
        if level > 6 or address >> 12 + 9 * level:
            raise Blocked("dma")
        while True:
            index = address >> 12 + 9 * (level - 1) & 511
            (below,) = self._words((entry & ADDRESS) + 8 * index, "<Q")
            rights &= below
            following = below >> NEXT_LEVEL & 7
            if not below & PRESENT or not rights or following >= level:
                raise Blocked("dma")
            if following == 0:
                inside = (1 << 12 + 9 * (level - 1)) - 1
                return (below & ADDRESS & ~inside) | (address & inside & ~(PAGE - 1)), rights
            entry, level = below, following

    def _remap(self, function: int, data: int) -> tuple[int, int]:
        """The entry of the interrupt table for a message, in two words of 64 bits."""
        entry = self._entry(function)
        control = entry[2] >> CONTROL & 3
        if not entry[0] & VALID or not entry[2] & INTERRUPTS_VALID or control == PASS:
            return REMAP_ENABLE | (data & 0xFF) << VECTOR, 0
        index = data & 0x7FF
        if control != REMAP or index >= 1 << (entry[2] >> TABLE_LENGTH & 0xF):
            raise Blocked("interrupt")
        low, high = self._words((entry[2] & TABLE_ROOT) + REMAP_ENTRY * index, "<2Q")
        if not low & REMAP_ENABLE or (not low & POSTED and low >> 5 & 7):
            raise Blocked("interrupt")
        return low, high


class IommuPort:
    """Memory as one function reaches it: the half of a slot (hv/silicon/device.py) that the IOMMU stands in."""

    def __init__(self, iommu: Iommu, function: int) -> None:
        self.iommu, self.function = iommu, function

    def _parts(self, address: int, size: int, *, write: bool) -> list[tuple[int, int]]:
        """Physical address and size of each page's part."""
        parts = []
        while size > 0:
            chunk = min(size, PAGE - address % PAGE)
            physical = self.iommu.translate(self.function, address, write=write)
            self.iommu.memory.find(physical, chunk)
            parts.append((physical, chunk))
            address, size = address + chunk, size - chunk
        return parts

    def read(self, address: int, size: int) -> bytes:
        parts = self._parts(address, size, write=False)
        return b"".join(self.iommu.memory.read(physical, chunk) for physical, chunk in parts)

    def write(self, address: int, data: bytes) -> None:
        if address >> 20 == MESSAGES and len(data) == 4:
            self.iommu.interrupt(self.function, address, int.from_bytes(data, "little"))
            return
        at = 0
        for physical, chunk in self._parts(address, len(data), write=True):
            self.iommu.memory.write(physical, data[at : at + chunk])
            at += chunk
