"""The hypervisor's part in interrupts between vCPUs (hv/silicon/x86_64/avic.py): the tables, and waking who sleeps."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.avic import FLAT, LOGICAL_VALID, NOT_RUNNING, RUNNING, VALID
from hv.silicon.x86_64.cpu import Cpu, Exit
from hv.silicon.x86_64.lapic import DFR, ICR_LOW, ID, IRR, LDR
from hv.silicon.x86_64.svm import Vmcb
from hv.silicon.x86_64.virtual_apic import IPIS
from modes.posted_interrupts.delivery import WAKE, PostedDelivery

LAST_ID = 0xFE
LOGICAL_IDS = 64  # entries of the logical table: 8 bits, or 15 clusters of 4


class AvicDelivery(PostedDelivery):
    """Posted delivery, with tables by which a vCPU reaches the others."""

    reasons = PostedDelivery.reasons | {"incomplete_ipi"}
    may_signal = PostedDelivery.may_signal | {svm.INCOMPLETE_IPI}
    controls = PostedDelivery.controls | IPIS

    def start(self, vmcbs: Sequence[Vmcb], cr_writes: int) -> None:
        super().start(vmcbs, cr_writes)
        self.physical, self.logical = self.hw.pool.alloc(), self.hw.pool.alloc()
        for vmcb in vmcbs:
            vmcb.avic_physical_table, vmcb.avic_logical_table = self.physical | LAST_ID, self.logical
        self._write_tables()

    def handlers(self) -> Mapping[int, Callable[[Cpu, Exit], str]]:
        return {**super().handlers(), svm.INCOMPLETE_IPI: self._incomplete_ipi}

    # --- tables -----------------------------------------------------------------------------------------------

    def _write_tables(self) -> None:
        """By the IDs that the guest has given its APICs. Of two with the same the first one has it."""
        memory = self.machine.memory
        memory.write(self.physical, bytes(8 * (LAST_ID + 1)))
        memory.write(self.logical, bytes(4 * LOGICAL_IDS))
        for index in reversed(range(len(self.vmcbs))):
            state = self.board.lapics[index].state
            running = RUNNING if self._runs(self.machine.cpus[index]) else 0
            entry = VALID | running | self.vmcbs[index].avic_backing_page | index
            if state.id <= LAST_ID:
                memory.write_u64(self.physical + 8 * state.id, entry)
            place = logical_place(state.ldr >> 24, flat=state.dfr >> 28 == FLAT)
            if place is not None:
                memory.write(self.logical + 4 * place, struct.pack("<I", LOGICAL_VALID | state.id))

    def _runs(self, cpu: Cpu) -> bool:
        return not cpu.halted and not cpu.waits

    # --- delivery ---------------------------------------------------------------------------------------------

    def deliver(self, cpu: Cpu) -> None:
        """Tell the others whether this vCPU runs. What they have put into its page meanwhile counts at its entry."""
        super().deliver(cpu)
        slot = self.physical + 8 * self.board.lapics[cpu.index].state.id
        entry = self.machine.memory.read_u64(slot)
        running = RUNNING if self._runs(cpu) else 0
        if entry & VALID and entry & 0xFF == cpu.index and entry & RUNNING != running:
            self.machine.memory.write_u64(slot, entry ^ RUNNING)

    def look_again(self, cpu: Cpu) -> None:
        if cpu.apic is not None:
            cpu.apic.look_again()

    # --- exits ------------------------------------------------------------------------------------------------

    def _apic_write(self, cpu: Cpu, exit: Exit) -> str:
        reason = super()._apic_write(cpu, exit)
        if exit.info1 in (ID, LDR, DFR):
            self._write_tables()
        return reason

    def _incomplete_ipi(self, cpu: Cpu, exit: Exit) -> str:
        """A target sleeps, and has the vector in its page; or the tables could do nothing, and it is done here."""
        if exit.info1 != NOT_RUNNING:
            self.lapic(cpu).written(ICR_LOW)
            return "incomplete_ipi"
        for index, other in enumerate(self.machine.cpus):
            if not self._runs(other) and self.lapic(other).page.bits(IRR):
                self.machine.interrupt(index, WAKE)
        return "incomplete_ipi"


def logical_place(ldr: int, *, flat: bool) -> int | None:
    """The entry of the logical table for an APIC with this logical ID, if it has one alone."""
    bits = ldr if flat else ldr & 0xF
    if bits.bit_count() != 1 or (not flat and ldr >> 4 == 0xF):
        return None
    return bits.bit_length() - 1 + (0 if flat else (ldr >> 4) * 4)
