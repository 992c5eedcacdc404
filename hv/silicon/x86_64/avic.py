"""Interrupts from one virtual CPU to another without an exit: AMD's AVIC (APM vol. 2, 15.29.2.4, 15.29.4).

Two tables in memory say where a guest's APIC IDs are: the physical one has for each ID the backing page of that vCPU's
APIC, whether it runs, and on which CPU; the logical one leads from bits of a logical destination to IDs. A write of the
command register sets the vector's bit in the pages of all targets, and rings the doorbell of those that run: the CPU
there looks at its page again. If one does not run, the command exits behind the instruction, and the hypervisor wakes
it. What the tables cannot carry (other kinds than fixed ones, an ID that they do not have) exits before anything is
done. Intel's IPI virtualization of 2022 is the same idea with a table of descriptors.
Simplified: xAPIC IDs; the exit does not say which target it was.
"""

from __future__ import annotations

from hv.silicon.memory import BusError, Memory
from hv.silicon.x86_64.apic_bus import LEVEL, LOGICAL, TO_ALL, TO_DESTINATION, TO_SELF
from hv.silicon.x86_64.lapic import BROADCAST, FIXED, Message
from hv.silicon.x86_64.svm import Vmcb

# An entry of the physical table: 8 bytes.
HOST_ID, PAGE_POINTER, RUNNING, VALID = 0xFF, 0x000F_FFFF_FFFF_F000, 1 << 62, 1 << 63
LAST_INDEX = 0xFF  # of the table's own address in the VMCB: the highest ID
# An entry of the logical table: 4 bytes; bit 31 says that it is valid.
LOGICAL_VALID = 1 << 31
FLAT = 0xF
# Why a command exits: the exit information of INCOMPLETE_IPI.
INVALID_TYPE, NOT_RUNNING, INVALID_TARGET = 0, 1, 2
DOORBELL = 0x100  # among physical interrupts: behind all vectors


class Incomplete(Exception):
    """The tables cannot carry a command; the argument is the exit information."""


def message_of(low: int, high: int) -> Message:
    """What a command register asks for."""
    return Message(low & 0xFF, low >> 8 & 7, high >> 24, bool(low & LOGICAL), level=bool(low & LEVEL))


class Targets:
    """The entries of the physical table that a command is for, as the tables of `vmcb` have them."""

    def __init__(self, memory: Memory, vmcb: Vmcb) -> None:
        self.memory = memory
        self.physical, self.last = vmcb.avic_physical_table & PAGE_POINTER, vmcb.avic_physical_table & LAST_INDEX
        self.logical = vmcb.avic_logical_table & PAGE_POINTER

    def find(self, low: int, high: int, own_id: int, dfr: int) -> dict[int, int]:
        """ID -> entry. Raises Incomplete."""
        message, shorthand = message_of(low, high), low >> 18 & 3
        if message.mode != FIXED or message.level or message.vector < 16:
            raise Incomplete(INVALID_TYPE)
        everybody = [id for id in range(self.last + 1) if self._entry(id) & VALID]
        if shorthand == TO_SELF:
            ids = [own_id]
        elif shorthand == TO_ALL:
            ids = everybody
        elif shorthand != TO_DESTINATION:
            ids = [id for id in everybody if id != own_id]
        elif message.destination == BROADCAST:
            ids = everybody
        elif message.logical:
            ids = self._logical(message.destination, flat=dfr >> 28 == FLAT)
        else:
            ids = [message.destination]
        found = {id: self._entry(id) for id in ids}
        if not found or not all(entry & VALID for entry in found.values()):
            raise Incomplete(INVALID_TARGET)
        return found

    def _logical(self, destination: int, *, flat: bool) -> list[int]:
        first, bits = (0, destination) if flat else ((destination >> 4) * 4, destination & 0xF)
        entries = [self._word(self.logical + 4 * (first + bit), 4) for bit in range(8) if bits >> bit & 1]
        if not all(entry & LOGICAL_VALID for entry in entries):
            raise Incomplete(INVALID_TARGET)
        return [entry & 0xFF for entry in entries]

    def _entry(self, id: int) -> int:
        return self._word(self.physical + 8 * id, 8) if id <= self.last else 0

    def _word(self, address: int, size: int) -> int:
        try:
            return int.from_bytes(self.memory.read(address, size), "little")
        except BusError:
            raise Incomplete(INVALID_TARGET) from None
