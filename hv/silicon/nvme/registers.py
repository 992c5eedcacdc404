"""The registers of an NVMe controller but the doorbells, and what it does when it is enabled, reset or shut down.

NVM Express 1.4, 3.1, 7.3 and 7.6. An access that the specification does not allow changes nothing and reads as zero.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from hv.silicon.medium import MediumError
from hv.silicon.nvme.queues import CompletionQueue, SubmissionQueue
from hv.silicon.nvme.spec import (
    ACQ,
    AQA,
    ASQ,
    CAP,
    CAPABILITIES,
    CC,
    CC_AMS,
    CC_CSS,
    CC_ENABLE,
    CC_MPS,
    CC_SHN,
    CC_WHILE_ENABLED,
    CC_WRITABLE,
    CSTS,
    DOORBELLS,
    FATAL,
    INTMC,
    INTMS,
    PAGE,
    READY,
    SHUTDOWN,
    SHUTDOWN_BUSY,
    SHUTDOWN_DONE,
    VERSION,
    VS,
)
from hv.silicon.nvme.state import ControllerState
from hv.silicon.nvme.subsystem import PRIMARY, Subsystem

if TYPE_CHECKING:
    from hv.silicon.device import Slot
    from hv.silicon.nvme.card import NvmeFunction


class Registers(abc.ABC):
    """What the host reads and writes of a controller. The function that it stands behind keeps its state."""

    def __init__(self, function: NvmeFunction, id: int, subsystem: Subsystem) -> None:
        self.function, self.id, self.subsystem = function, id, subsystem

    @property
    def state(self) -> ControllerState:
        return self.function.state.controller

    @property
    def slot(self) -> Slot:
        return self.function.slot

    def _pin(self, level: bool) -> None:
        """The interrupt pin, as long as MSI-X is off."""
        self.slot.interrupt(level and not self.function.msix.enabled)

    @property
    def online(self) -> bool:
        return self.subsystem.online(self.id)

    @abc.abstractmethod
    def _doorbell(self, number: int, value: int) -> None:
        """The host rings doorbell `number`, counted from the first (3.1.16)."""

    def read(self, offset: int, size: int) -> int:
        """A register, or a part of one. Doorbells and what is reserved read as zero."""
        low = self._register(offset & ~3)
        high = self._register((offset & ~3) + 4) if offset % 4 + size > 4 else 0
        return (high << 32 | low) >> 8 * (offset % 4) & (1 << 8 * size) - 1

    def _register(self, offset: int) -> int:
        s = self.state
        if not self.online:
            return FATAL if offset == CSTS else 0
        values = {
            CAP: CAPABILITIES & 0xFFFF_FFFF, CAP + 4: CAPABILITIES >> 32, VS: VERSION, INTMS: s.masked, INTMC: s.masked,
            CC: s.cc, CSTS: s.csts, AQA: s.aqa, ASQ: s.asq & 0xFFFF_FFFF, ASQ + 4: s.asq >> 32,
            ACQ: s.acq & 0xFFFF_FFFF, ACQ + 4: s.acq >> 32,
        }  # fmt: skip
        return values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Only aligned words of 32 and 64 bits reach registers (3.1)."""
        if size < 4 or offset % size:
            return
        if offset >= DOORBELLS:
            self._doorbell(offset - DOORBELLS >> 2, value & 0xFFFF)
        elif self.online:
            self._write_words(offset, size, value)

    def _write_words(self, offset: int, size: int, value: int) -> None:
        for at in range(0, size, 4):
            self._write_word(offset + at, value >> 8 * at & 0xFFFF_FFFF)

    def _write_word(self, offset: int, value: int) -> None:
        s = self.state
        if offset == CC:
            self._configure(value)
        elif offset == INTMS:
            s.masked |= value
            self._drive_pin()
        elif offset == INTMC:
            s.masked &= ~value
            self._drive_pin()
        elif s.cc & CC_ENABLE:
            return  # the admin queues stay where they are
        elif offset == AQA:
            s.aqa = value & 0x0FFF_0FFF
        elif offset in (ASQ, ASQ + 4):
            s.asq = _half(s.asq, offset - ASQ, value) & ~(PAGE - 1)
        elif offset in (ACQ, ACQ + 4):
            s.acq = _half(s.acq, offset - ACQ, value) & ~(PAGE - 1)

    def _configure(self, value: int) -> None:
        """CC: enable, disable, shut down (7.3.2, 7.6.1 and 7.6.2)."""
        s, now = self.state, self.slot.now
        before = s.cc
        writable = CC_WHILE_ENABLED if before & value & CC_ENABLE else CC_WRITABLE
        s.cc = before & ~writable | value & writable
        if before & CC_ENABLE and not s.cc & CC_ENABLE:
            cc = s.cc
            self.reset()
            s = self.state
            s.cc = cc
        elif s.cc & CC_ENABLE and not before & CC_ENABLE:
            s.settle = now + self.subsystem.times.reset
        if s.cc & CC_SHN and not before & CC_SHN:
            s.csts = s.csts & ~SHUTDOWN | SHUTDOWN_BUSY
            s.settle = now + self.subsystem.times.flush
        self.slot.reschedule()

    def reset(self) -> None:
        """A controller reset: queues and everything in flight are gone, the admin queues' registers stay (7.3.2).

        With the primary controller its secondary ones go offline (8.5.3).
        """
        s = self.state
        fresh = ControllerState(
            aqa=s.aqa, asq=s.asq, acq=s.acq, errors=s.errors, error_count=s.error_count, read_units=s.read_units,
            written_units=s.written_units, reads=s.reads, writes=s.writes,
        )  # fmt: skip
        for field in ControllerState.__struct_fields__:
            setattr(s, field, getattr(fresh, field))
        self._pin(False)
        if self.id == PRIMARY:
            self.subsystem.all_offline()

    def _settle(self) -> None:
        """The time of an enabling or a shutdown is over."""
        s = self.state
        s.settle = None
        if s.csts & SHUTDOWN == SHUTDOWN_BUSY:
            for namespace in self.subsystem.attached(self.id):
                self._flush(namespace)
            s.csts = s.csts & ~SHUTDOWN | SHUTDOWN_DONE
        elif s.cc & CC_ENABLE and not s.csts & READY:
            submissions, completions = (s.aqa & 0xFFF) + 1, (s.aqa >> 16) + 1
            if s.cc & (CC_CSS | CC_MPS | CC_AMS) or submissions < 2 or completions < 2:
                s.csts |= FATAL
                return
            s.sqs[0] = SubmissionQueue(s.asq, submissions, 0)
            s.cqs[0] = CompletionQueue(s.acq, completions, 0, True)
            s.csts |= READY

    def _flush(self, namespace: int) -> None:
        try:
            self.subsystem.namespaces[namespace].flush()
        except MediumError:
            self.state.csts |= FATAL

    def _drive_pin(self) -> None:
        """The pin is up while a queue has entries that the host has not seen, and vector 0 is not masked (7.5.1)."""
        s = self.state
        self._pin(not s.masked & 1 and any(cq.interrupts and cq.used() for cq in s.cqs.values()))


def _half(value: int, at: int, word: int) -> int:
    """A 64-bit register with one of its halves replaced."""
    return value & ~(0xFFFF_FFFF << 8 * at) | word << 8 * at
