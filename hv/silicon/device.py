"""What a device sees of the machine that it is plugged into, and what the machine sees of a device.

A device knows neither its address nor who drives it. The same protocol serves chips of the silicon on metal, the
hypervisor's emulated ones behind exits, and cards behind an IOMMU.
"""

from __future__ import annotations

from typing import Any, Protocol


class Slot(Protocol):
    """The machine, from a device's place."""

    @property
    def now(self) -> int:
        """Virtual time in millicycles."""

    def read(self, address: int, size: int) -> bytes:
        """DMA read of bus addresses [address, address + size). Raises BusError where there is no RAM."""

    def write(self, address: int, data: bytes) -> None:
        """DMA write. Raises BusError, and writes nothing, where part of it is no RAM."""

    def interrupt(self, level: bool) -> None:
        """Drive the device's interrupt line."""

    def reschedule(self) -> None:
        """The device's `deadline` has changed."""


class Device(Protocol):
    """A device, from the machine's place."""

    state: Any  # everything that it remembers, a plain record

    @property
    def deadline(self) -> int | None:
        """When it next has something to do by itself (virtual time in millicycles), or None."""

    def advance(self, now: int) -> None:
        """Time has come to `now`: do what is due."""
