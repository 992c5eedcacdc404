"""The two buses of the processor: which chip answers at which port, and at which address outside RAM.

Nobody there: reads give all ones, writes are lost. An access belongs to the chip that claims its first byte; where two
claim it, to the one that came first. Ranges can come and go: PCI cards move.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec


class PortChip(Protocol):
    """A chip on the port bus. It gets offsets from its own base and never knows its address."""

    def port_read(self, offset: int, size: int) -> int: ...
    def port_write(self, offset: int, size: int, value: int) -> None: ...


@runtime_checkable
class StringChip(PortChip, Protocol):
    """A chip with a buffer behind a port: REP INS and REP OUTS need not come element by element."""

    def port_read_string(self, offset: int, size: int, count: int) -> bytes | None:
        """`count` reads of `size` bytes in one piece. None: this port has none."""

    def port_write_string(self, offset: int, size: int, data: bytes) -> bool:
        """Writes of `size` bytes in one piece. False: this port has none."""


class MmioChip(Protocol):
    """A chip whose registers lie in memory: sizes of 1, 2, 4 and 8 bytes, offsets from its own base."""

    def mmio_read(self, offset: int, size: int) -> int: ...
    def mmio_write(self, offset: int, size: int, value: int) -> None: ...


class PortRange(msgspec.Struct, frozen=True, eq=False):
    base: int
    size: int
    chip: PortChip


class MmioRange(msgspec.Struct, frozen=True, eq=False):
    base: int
    size: int
    chip: MmioChip


class PortBus:
    """The 64 Ki port addresses (APM vol. 1, 3.8)."""

    def __init__(self) -> None:
        self.ranges: list[PortRange] = []
        self._at: dict[int, PortRange] = {}

    def add(self, base: int, size: int, chip: PortChip) -> PortRange:
        """Let a chip answer at `base`. What is returned takes it off again."""
        claimed = PortRange(base, size, chip)
        self.ranges.append(claimed)
        for port in range(base, base + size):
            self._at.setdefault(port, claimed)
        return claimed

    def remove(self, claimed: PortRange) -> None:
        self.ranges.remove(claimed)
        self._at = {}
        for other in self.ranges:
            for port in range(other.base, other.base + other.size):
                self._at.setdefault(port, other)

    def claimed(self, port: int) -> bool:
        """Is there a chip at this address?"""
        return port in self._at

    def read(self, port: int, size: int) -> int:
        claimed = self._at.get(port)
        if claimed is None:
            return (1 << 8 * size) - 1
        return claimed.chip.port_read(port - claimed.base, size)

    def write(self, port: int, size: int, value: int) -> None:
        claimed = self._at.get(port)
        if claimed is not None:
            claimed.chip.port_write(port - claimed.base, size, value)

    def read_string(self, port: int, size: int, count: int) -> bytes:
        """What so many reads of the same port give."""
        claimed = self._at.get(port)
        if claimed is not None and isinstance(claimed.chip, StringChip):
            data = claimed.chip.port_read_string(port - claimed.base, size, count)
            if data is not None:
                return data
        return b"".join(self.read(port, size).to_bytes(size, "little") for _ in range(count))

    def write_string(self, port: int, size: int, data: bytes) -> None:
        """Writes of the same port, one after the other."""
        claimed = self._at.get(port)
        if claimed is None:
            return
        chip, offset = claimed.chip, port - claimed.base
        if isinstance(chip, StringChip) and chip.port_write_string(offset, size, data):
            return
        for at in range(0, len(data), size):
            chip.port_write(offset, size, int.from_bytes(data[at : at + size], "little"))


class MmioBus:
    """The physical addresses at which there is no RAM."""

    def __init__(self) -> None:
        self.ranges: list[MmioRange] = []
        self._last: MmioRange | None = None  # the one that was reached last, if it overlaps no other

    def add(self, base: int, size: int, chip: MmioChip) -> MmioRange:
        """Let a chip answer at `base`. What is returned takes it off again."""
        claimed = MmioRange(base, size, chip)
        self.ranges.append(claimed)
        self._last = None
        return claimed

    def remove(self, claimed: MmioRange) -> None:
        self.ranges.remove(claimed)
        self._last = None

    def claims(self, address: int) -> bool:
        """Does a chip answer there?"""
        return self._find(address) is not None

    def _find(self, address: int) -> MmioRange | None:
        last = self._last
        if last is not None and last.base <= address < last.base + last.size:
            return last
        for claimed in self.ranges:
            if claimed.base <= address < claimed.base + claimed.size:
                end = claimed.base + claimed.size
                alone = not any(
                    other is not claimed and other.base < end and claimed.base < other.base + other.size
                    for other in self.ranges
                )
                self._last = claimed if alone else None
                return claimed
        return None

    def read(self, address: int, size: int) -> int:
        claimed = self._find(address)
        return (1 << 8 * size) - 1 if claimed is None else claimed.chip.mmio_read(address - claimed.base, size)

    def write(self, address: int, size: int, value: int) -> None:
        claimed = self._find(address)
        if claimed is not None:
            claimed.chip.mmio_write(address - claimed.base, size, value)
