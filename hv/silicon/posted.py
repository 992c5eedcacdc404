"""A descriptor of posted interrupts: 64 bytes of memory that stand for a CPU to whoever interrupts it.

Intel SDM vol. 3, 30.6; VT-d specification 9.12. 256 bits of requests by vector (PIR), then outstanding notification
(ON, bit 256), suppress notification (SN, 257), the notification's vector (NV, 279:272) and the physical CPU that gets
it (NDST, 319:288, of which an xAPIC uses bits 15:8).
"""

from __future__ import annotations

from hv.silicon.memory import Memory

SIZE = 64
ON, SN = 1 << 0, 1 << 1  # of word 8
CONTROL, DESTINATION = 8, 9  # words of 32 bits


class Descriptor:
    """The descriptor at a physical address. Raises BusError where there is no RAM."""

    def __init__(self, memory: Memory, address: int) -> None:
        region, at = memory.find(address, SIZE)
        self.host_address = region.host_address() - region.offset + at
        self.words = memoryview(region.data)[at : at + SIZE].cast("I")

    def post(self, vector: int, *, urgent: bool = False) -> tuple[int, int] | None:
        """Request a vector, in one atomic step (VT-d 5.2.2).

        Returns the notification that must be sent now, if one must: physical APIC ID, vector.
        """
        words = self.words
        words[vector >> 5] |= 1 << (vector & 31)
        control = words[CONTROL]
        if control & ON or (control & SN and not urgent):
            return None
        words[CONTROL] = control | ON
        return words[DESTINATION] >> 8 & 0xFF, control >> 16 & 0xFF

    def direct(self, vector: int, destination: int) -> None:
        """Software: whom to notify, with which vector."""
        self.words[CONTROL] = self.words[CONTROL] & 0xFFFF | vector << 16
        self.words[DESTINATION] = destination << 8

    def suppress(self, wanted: bool) -> None:
        """Software: requests that are not urgent wait without a notification, or not."""
        self.words[CONTROL] = self.words[CONTROL] & ~SN | (SN if wanted else 0)

    @property
    def outstanding(self) -> bool:
        """A notification is on its way."""
        return bool(self.words[CONTROL] & ON)

    @property
    def requests(self) -> int:
        """The requests that nobody has taken yet, as a number of 256 bits."""
        return int.from_bytes(self.words[:CONTROL], "little")

    def take(self) -> int:
        """Take all requests; another post notifies again."""
        self.words[CONTROL] &= ~ON
        requests = self.requests
        for word in range(CONTROL):
            self.words[word] = 0
        return requests
