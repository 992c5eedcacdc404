"""A host for a PCI Express card, without a CPU: memory that DMA reaches, a bus, and time that passes."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

from hv.silicon.bus import MmioBus, PortBus
from hv.silicon.memory import BusError
from hv.silicon.pci import PciBus


class CardHost(abc.ABC):
    """A machine for one card."""

    def __init__(self, ram: int) -> None:
        self.ram = bytearray(ram)
        self.now = 0
        self.written: list[tuple[int, int, int]] = []  # function, address, size
        self.blocked: list[tuple[int, int]] = []  # function, address: where it may not go
        self.reads = 0
        self._pin = False
        self.bus = PciBus(PortBus(), MmioBus(), self._wired)

    def _wired(self, wire: int, level: bool) -> None:
        self._pin = level

    def pin(self) -> bool:
        """The interrupt pin is high."""
        return self._pin

    @abc.abstractmethod
    def told(self, function: int, message: int) -> None:
        """A function has written an MSI-X message."""

    def configure(self, function: int, offset: int, value: int, size: int = 4) -> None:
        self.bus.config_write(self.bus.functions[function], offset, size, value)

    def pass_time(self, until: int | None = None) -> None:
        """Let the card do what it has to do, until nothing is left or for so long."""
        while True:
            due = [(f.deadline, place) for place, f in sorted(self.bus.functions.items()) if f.deadline is not None]
            if not due or (until is not None and min(due)[0] > until):
                break
            when, place = min(due)
            self.now = max(self.now, when)
            self.bus.functions[place].advance(self.now)
        if until is not None:
            self.now = max(self.now, until)


H = TypeVar("H", bound=CardHost)


class CardPlace(Generic[H]):
    """A slot. As behind an IOMMU, its DMA reaches the RAM from `first` to `end` only."""

    def __init__(self, host: H, function: int, first: int, end: int) -> None:
        self.host, self.function = host, function
        self.first, self.end = first, end

    @property
    def now(self) -> int:
        return self.host.now

    def read(self, address: int, size: int) -> bytes:
        self.host.reads += 1
        self._check(address, size)
        return bytes(self.host.ram[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        if address >> 20 == 0xFEE:
            self.host.told(self.function, int.from_bytes(data, "little"))
            return
        self._check(address, len(data))
        self.host.written.append((self.function, address, len(data)))
        self.host.ram[address : address + len(data)] = data

    def _check(self, address: int, size: int) -> None:
        if not self.first <= address <= self.end - size:
            self.host.blocked.append((self.function, address))
            raise BusError(f"nothing at {address:#x}")

    def interrupt(self, level: bool) -> None:
        """Never: a pin leads to a wire of the bus."""

    def reschedule(self) -> None:
        pass
