"""What the hypervisor still does for the interrupts of a guest whose CPU has a virtual APIC.

An interrupt of its own making (an emulated device's, the timer's) it posts into the vCPU's descriptor. The requests in
there are taken over by the hypervisor itself if that vCPU is the one whose exit it handles, by the running CPU if it is
notified with the vector NOTIFY, and after a wake-up if the vCPU sleeps: then the vector is WAKE, and the physical
interrupt comes to the hypervisor.

What exits: a write to a register with an effect, such as the timer's count or the command register; a look at what
counts; the end of a level-triggered interrupt. The timer's expiry is a physical interrupt of the hypervisor's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from capstone.x86 import X86_OP_MEM

from hv.silicon import posted
from hv.silicon.posted import Descriptor
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import Cpu, Exit
from hv.silicon.x86_64.engine import APIC_ACCESS_PAGE
from hv.silicon.x86_64.lapic import FIXED, Lapic
from hv.silicon.x86_64.pc import LAPIC_BASE
from hv.silicon.x86_64.svm import Vmcb
from hv.silicon.x86_64.virtual_apic import VIRTUAL_APIC, Page
from hv.x86_64.decode import address_of, decode_here
from modes.hw_assist.interrupts import MAY_SIGNAL, EmulatedApics
from modes.posted_interrupts.lapic import PagedLapic

if TYPE_CHECKING:
    from modes.hw_assist.mode import HwAssist

NOTIFY, WAKE = 0xF2, 0xF1  # physical vectors
OFFSET = 0xFFF  # of the exit information


class PostedDelivery(EmulatedApics):
    """Delivery through the virtual APICs of `hw`'s vCPUs."""

    reasons = EmulatedApics.reasons - {"cr8_write"} | {"apic_access", "apic_write", "virtual_eoi"}
    may_signal = MAY_SIGNAL | {svm.APIC_WRITE}
    controls = VIRTUAL_APIC

    def __init__(self, hw: HwAssist) -> None:
        super().__init__(hw.board, len(hw.vm.machine.cpus))
        self.hw, self.machine = hw, hw.vm.machine

    def start(self, vmcbs: Sequence[Vmcb], cr_writes: int) -> None:
        super().start(vmcbs, cr_writes)
        memory, pool = self.machine.memory, self.hw.pool
        pages, descriptors = pool.alloc(len(vmcbs)), pool.alloc()
        self.descriptors: list[Descriptor] = []
        for index, vmcb in enumerate(vmcbs):
            vmcb.apic_controls, vmcb.notification_vector = self.controls, NOTIFY
            vmcb.avic_backing_page, vmcb.posted_descriptor = pages + 0x1000 * index, descriptors + posted.SIZE * index
            descriptor = Descriptor(memory, vmcb.posted_descriptor)
            descriptor.direct(WAKE if index else NOTIFY, index)
            self.descriptors.append(descriptor)
            page = Page(memory, vmcb.avic_backing_page)
            chip = self.board.lapics[index]
            self.board.lapics[index] = PagedLapic(chip, page, vmcb, partial(self.post, index), self._status_changed)
        self.hw.map_chip(LAPIC_BASE, APIC_ACCESS_PAGE)

    def handlers(self) -> Mapping[int, Callable[[Cpu, Exit], str]]:
        return {
            **super().handlers(),
            svm.APIC_WRITE: self._apic_write,
            svm.APIC_ACCESS: self._apic_access,
            svm.VIRTUAL_EOI: self._virtual_eoi,
        }

    # --- posting ----------------------------------------------------------------------------------------------

    def post(self, index: int, vector: int) -> None:
        """Request a vector. The CPU whose exit is open sees it at its next entry, another one is told."""
        descriptor = self.descriptors[index]
        if descriptor.post(vector) and index != self.board.here():
            self.machine.interrupt(*descriptor.notification)

    def posted(self, address: int, data: int) -> tuple[int, int] | None:
        """Descriptor and vector for a card's message, if it is a fixed one for one vCPU by its number."""
        destination, logical, mode, vector = address >> 12 & 0xFF, address >> 2 & 1, data >> 8 & 7, data & 0xFF
        if address >> 20 == LAPIC_BASE >> 20 and not logical and mode == FIXED and vector >= 16:
            for vmcb, lapic in zip(self.vmcbs, self.board.lapics, strict=True):
                if lapic.state.id == destination:
                    return vmcb.posted_descriptor, vector
        return None

    # --- delivery ---------------------------------------------------------------------------------------------

    def more_waits(self, cpu: Cpu) -> bool:
        return self.descriptors[cpu.index].outstanding or super().more_waits(cpu)

    def inject(self, cpu: Cpu, lapic: Lapic) -> None:
        """Take over what is posted. The CPU delivers it by itself; only what the 8259s send is injected."""
        super().inject(cpu, lapic)
        descriptor, apic = self.descriptors[cpu.index], cpu.apic
        assert apic is not None
        if descriptor.outstanding:
            apic.take_posted()
        self.look_again(cpu)
        if cpu.halted and cpu.m.recognized and cpu.interruptible:
            cpu.halted = False
        descriptor.direct(WAKE if cpu.halted else NOTIFY, cpu.index)

    def look_again(self, cpu: Cpu) -> None:
        """Nothing: nobody else writes to a vCPU's page."""

    def _status_changed(self) -> None:
        """The hypervisor has changed the status of the vCPU whose exit it handles."""
        apic = self.machine.running.apic
        if apic is not None:
            apic.evaluate()

    # --- exits ------------------------------------------------------------------------------------------------

    def lapic(self, cpu: Cpu) -> PagedLapic:
        lapic = self.board.lapics[cpu.index]
        assert isinstance(lapic, PagedLapic)
        return lapic

    def _apic_write(self, cpu: Cpu, exit: Exit) -> str:
        """The page has been written, the instruction is over."""
        self.lapic(cpu).written(exit.info1)
        return "apic_write"

    def _apic_access(self, cpu: Cpu, exit: Exit) -> str:
        """The instruction has done nothing: emulate it, as any access to a device."""
        gpa = LAPIC_BASE + (exit.info1 & OFFSET)
        instruction = decode_here(cpu)
        for operand in [] if instruction is None else instruction.operands:
            if operand.type == X86_OP_MEM and cpu.linear(address_of(cpu, instruction, operand)) == gpa - 4:
                gpa -= 4  # the CPU has let the first half of 8 bytes through
        self.hw.device_access(cpu, gpa)
        return "apic_access"

    def _virtual_eoi(self, cpu: Cpu, exit: Exit) -> str:
        self.lapic(cpu).ended(exit.info1)
        return "virtual_eoi"
