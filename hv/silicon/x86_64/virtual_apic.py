"""The virtual local APIC of a guest, and posted interrupts (Intel SDM vol. 3, chapter 30; 29 in older editions).

No CPU was ever like this one: AMD's SVM together with Intel's APICv of 2012. (AMD's own answer, AVIC, knows no RVI and
no descriptors. What this CPU has of it is in avic.py.) The controls that a VMCS has for it lie in the VMCB, where AMD
has reserved space; the exits are AMD's AVIC_NOACCEL and AVIC_INCOMPLETE_IPI, and two that AMD does not have.

The guest's local APIC is a page of memory. What the CPU does alone, without an exit:
- reads of its registers, except those that count or compute (current count, PPR);
- writes of TPR (30.1.2) and EOI (30.1.4), and an interrupt to oneself (30.1.5);
- delivery: RVI is the highest vector requested in the page, SVI the highest in service. When RVI's class exceeds the
  processor priority, the CPU delivers RVI as soon as the guest takes interrupts (30.2).
Any other write changes the page and exits behind the instruction (`APIC_WRITE`), any other access exits before it
(`APIC_ACCESS`). A vector in the EOI-exit bitmap exits behind its EOI (`VIRTUAL_EOI`).

A posted interrupt (30.6) is a bit in a descriptor in memory, which anybody may set, and a physical interrupt with the
notification vector. If that comes while the guest runs, the CPU itself takes the requests over, without an exit.

The hot half of this is once more in virtual_apic.h. Simplified: all features come together; the APIC-access page is
always at the CPU's own APIC's address; an access of 8 bytes counts as two of 4, of which the second one exits; no user
posted interrupts, no TPR threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.silicon.memory import Memory
from hv.silicon.posted import Descriptor
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.avic import DOORBELL, HOST_ID, NOT_RUNNING, PAGE_POINTER, RUNNING, Incomplete, Targets
from hv.silicon.x86_64.lapic import (
    DFR,
    EOI,
    ESR,
    ICR_HIGH,
    ICR_LOW,
    ID,
    IRR,
    ISR,
    LDR,
    LVTS,
    PPR,
    SVR,
    TIMER_DIVIDE,
    TIMER_INITIAL,
    TMR,
    TPR,
    VERSION,
)
from hv.silicon.x86_64.svm import Vmcb

if TYPE_CHECKING:
    from hv.silicon.x86_64.cpu import Cpu

# VMCB.apic_controls: the virtual APIC in memory, the one behind MSRs (30.5), interrupts to others without an exit.
VIRTUAL_APIC, X2APIC, IPIS = 1, 2, 4
WRITABLE = frozenset((ID, TPR, EOI, LDR, DFR, SVR, ESR, ICR_LOW, ICR_HIGH, *LVTS, TIMER_INITIAL, TIMER_DIVIDE))
SETS = (ISR, TMR, IRR)  # eight registers each
READABLE = WRITABLE | {VERSION} | {base + 16 * word for base in SETS for word in range(8)}
SELF_IPI = 0x3F0  # x2APIC has a register for it
X2APIC_MSRS = range(0x800, 0x900)
ACCESS_WRITE = 1 << 12  # exit information of APIC_ACCESS: the offset, and this bit
# An interrupt command that is an edge-triggered fixed one to oneself (30.1.5): these bits, and the shorthand.
ICR_SHAPE, ICR_TO_SELF = 0xFFFF_B700, 1 << 18


class Page:
    """A virtual-APIC page: registers of 32 bits, 16 bytes apart, as the guest would find them in a local APIC."""

    def __init__(self, memory: Memory, address: int) -> None:
        region, at = memory.find(address, 0x1000)
        self.host_address = region.host_address() - region.offset + at
        self.words = memoryview(region.data)[at : at + 0x1000].cast("I")

    def __getitem__(self, offset: int) -> int:
        return self.words[offset >> 2]

    def __setitem__(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value

    def bits(self, base: int) -> int:
        """ISR, TMR or IRR as one number of 256 bits."""
        return sum(self.words[(base >> 2) + 4 * word] << 32 * word for word in range(8))

    def assign(self, base: int, vector: int, value: bool) -> None:
        """Set or clear a vector's bit in ISR, TMR or IRR."""
        at, bit = (base >> 2) + vector // 32 * 4, 1 << vector % 32
        self.words[at] = self.words[at] & ~bit | (bit if value else 0)

    def highest(self, base: int) -> int:
        """The highest vector in a set; 0 when it is empty."""
        return max(0, self.bits(base).bit_length() - 1)


class VirtualApic:
    """A CPU's virtual APIC, as `vmcb` tells it to be."""

    def __init__(self, cpu: Cpu, vmcb: Vmcb) -> None:
        self.cpu, self.m, self.vmcb = cpu, cpu.m, vmcb
        memory = cpu.engine.memory
        self.page = Page(memory, vmcb.avic_backing_page)
        self.descriptor = Descriptor(memory, vmcb.posted_descriptor)

    # --- priorities -------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        """PPR virtualization (30.1.3), and evaluation of pending virtual interrupts (30.2.1)."""
        page, vmcb = self.page, self.vmcb
        tpr, svi = page[TPR] & 0xFF, vmcb.svi
        page[PPR] = ppr = tpr if tpr >> 4 >= svi >> 4 else svi & 0xF0
        self.m.recognized = vmcb.rvi >> 4 > ppr >> 4
        self.cpu.keep_deadline()

    def take(self) -> int:
        """Virtual-interrupt delivery (30.2.2): the vector that goes through the guest's IDT now."""
        page, vmcb = self.page, self.vmcb
        vector = vmcb.rvi
        page.assign(ISR, vector, True)
        page.assign(IRR, vector, False)
        vmcb.svi, vmcb.rvi = vector, page.highest(IRR)
        page[PPR] = vector & 0xF0
        self.m.recognized = 0
        return vector

    def set_tpr(self, value: int) -> None:
        """TPR virtualization (30.1.2), also of CR8."""
        self.page[TPR] = value
        self.evaluate()

    def request(self, vector: int) -> None:
        """A vector for this CPU, from itself."""
        self.page.assign(IRR, vector, True)
        self.vmcb.rvi = max(self.vmcb.rvi, vector)
        self.evaluate()

    def end_of_interrupt(self) -> None:
        """EOI virtualization (30.1.4)."""
        page, vmcb = self.page, self.vmcb
        vector = vmcb.svi
        page[EOI] = 0
        page.assign(ISR, vector, False)
        vmcb.svi = page.highest(ISR)
        self.evaluate()
        if vmcb.eoi_exit_bitmap[vector >> 6] >> (vector & 63) & 1:
            self.trap(svm.VIRTUAL_EOI, vector)

    def trap(self, code: int, info: int) -> None:
        """An exit, when the instruction is over."""
        self.m.trap, self.m.trap_info = code, info
        self.cpu.keep_deadline()

    def take_posted(self) -> None:
        """Posted-interrupt processing (30.6); the hypervisor does the same before it enters the guest."""
        requests = self.descriptor.take()
        for word in range(8):
            if requests >> 32 * word & 0xFFFF_FFFF:
                self.page[IRR + 16 * word] |= requests >> 32 * word & 0xFFFF_FFFF
        self.vmcb.rvi = max(self.vmcb.rvi, requests.bit_length() - 1)
        self.evaluate()

    # --- registers in memory ----------------------------------------------------------------------------------

    def virtualized(self, offset: int, size: int, *, write: bool) -> bool:
        """Is an access to the APIC-access page one that needs no exit (30.4.2, 30.4.3.1)?"""
        return (offset & 15) + size <= 4 and offset & ~15 in (WRITABLE if write else READABLE)

    def read(self, offset: int) -> int:
        return self.page[offset & ~3] >> 8 * (offset & 3)

    def write(self, offset: int, size: int, value: int) -> None:
        """A write that is virtualized: first the page (30.4.3.2), then what follows from it."""
        register, shift = offset & ~3, 8 * (offset & 3)
        mask = (1 << 8 * size) - 1 << shift
        page = self.page
        page[register] = page[register] & ~mask | value << shift & mask
        if register == TPR:
            self.cpu.state.v_tpr = page[TPR] >> 4 & 0xF
            self.set_tpr(page[TPR] & 0xFF)
        elif register == EOI:
            self.end_of_interrupt()
        elif register == ICR_HIGH:
            page[ICR_HIGH] &= 0xFF00_0000
        else:
            self.written(register)

    def written(self, register: int) -> None:
        """The page has a new value in any other register: an interrupt to oneself, or an exit (30.4.3.3)."""
        command = self.page[ICR_LOW]
        if register == ICR_LOW and command & ICR_SHAPE == ICR_TO_SELF and command & 0xF0:
            self.request(command & 0xFF)
        elif register == ICR_LOW and self.vmcb.apic_controls & IPIS:
            self._send(command)
        else:
            self.trap(svm.APIC_WRITE, register)

    def _send(self, command: int) -> None:
        """An interrupt to others (avic.py)."""
        page, memory = self.page, self.cpu.engine.memory
        own = page[ID] >> 24
        try:
            targets = Targets(memory, self.vmcb).find(command, page[ICR_HIGH], own, page[DFR])
        except Incomplete as why:
            self.trap(svm.INCOMPLETE_IPI, why.args[0])
            return
        vector = command & 0xFF
        for id, entry in targets.items():
            if id == own:
                self.request(vector)
                continue
            Page(memory, entry & PAGE_POINTER).assign(IRR, vector, True)
            if entry & RUNNING:
                self.cpu.send(entry & HOST_ID, DOORBELL)
        if not all(entry & RUNNING for entry in targets.values()):
            self.trap(svm.INCOMPLETE_IPI, NOT_RUNNING)

    def look_again(self) -> None:
        """Others may have set bits in the page: what the doorbell says, and what an entry of the guest begins with."""
        self.vmcb.rvi = self.page.highest(IRR)
        self.evaluate()

    # --- registers behind MSRs --------------------------------------------------------------------------------

    def read_msr(self, number: int) -> int:
        """RDMSR of an x2APIC register that the hypervisor does not intercept (30.5)."""
        offset = (number & 0xFF) << 4
        return self.page[offset] | (self.page[offset + 4] << 32 if offset == ICR_LOW else 0)

    def write_msr(self, number: int, value: int) -> bool:
        """WRMSR of TPR, EOI or SELF_IPI. False: a value that the register does not take, or another register."""
        offset = (number & 0xFF) << 4
        if offset == TPR and not value >> 8:
            self.cpu.state.v_tpr = value >> 4
            self.set_tpr(value)
        elif offset == EOI and not value:
            self.end_of_interrupt()
        elif offset == SELF_IPI and not value >> 8:
            self.page[SELF_IPI] = value
            if value >> 4:
                self.request(value)
            else:
                self.trap(svm.APIC_WRITE, SELF_IPI)
        else:
            return False
        return True
