"""The port bus: which chip answers at which I/O address. Nobody there: reads give all ones, writes are lost."""

from __future__ import annotations

from typing import Protocol

import msgspec


class PortChip(Protocol):
    """A chip on the port bus. It gets offsets from its own base and never knows its address."""

    def port_read(self, offset: int, size: int) -> int: ...
    def port_write(self, offset: int, size: int, value: int) -> None: ...


class PortRange(msgspec.Struct, frozen=True):
    base: int
    size: int
    chip: PortChip


class PortBus:
    """The 64 Ki port addresses (APM vol. 1, 3.8). An access belongs to the chip that claims its first byte."""

    def __init__(self) -> None:
        self.ranges: list[PortRange] = []

    def add(self, base: int, size: int, chip: PortChip) -> None:
        self.ranges.append(PortRange(base, size, chip))

    def claimed(self, port: int) -> bool:
        """Is there a chip at this address?"""
        return any(claimed.base <= port < claimed.base + claimed.size for claimed in self.ranges)

    def read(self, port: int, size: int) -> int:
        for claimed in self.ranges:
            if claimed.base <= port < claimed.base + claimed.size:
                return claimed.chip.port_read(port - claimed.base, size)
        return (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        for claimed in self.ranges:
            if claimed.base <= port < claimed.base + claimed.size:
                claimed.chip.port_write(port - claimed.base, size, value)
                return
