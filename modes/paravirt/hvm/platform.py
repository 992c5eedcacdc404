"""How a guest finds Xen beside its PC, and calls it: CPUID leaves, an MSR that fills a page with hypercalls, VMMCALL.

    CPUID 4000_0000  "XenVMMXenVMM"      4000_0002  one page of hypercalls, filled by a write of its address to the MSR
          4000_0001  the version         4000_0003  clocks        4000_0004  what else there is, the vCPU's number

The arguments of a hypercall are in RDI, RSI, RDX, R10 and R8, its number and result in RAX (public/arch-x86/xen.h).
"""

from __future__ import annotations

import struct
from functools import partial

from hv.costs import CostModel
from hv.silicon.x86_64.cpu import Cpu
from hv.silicon.x86_64.msr import BadMsr
from hv.silicon.x86_64.state import HF_CS64, RAX, RDI, RDX, RSI
from hv.x86_64.platform import FIRST_LEAF, Leaf, Platform, words
from modes.paravirt.abi import ENOSYS, EPERM, HYPERCALL_MSR, HYPERCALLS, IRET, SIGNATURE, STUB_SIZE, XEN_VERSION
from modes.paravirt.calls.again import Again
from modes.paravirt.calls.table import call
from modes.paravirt.common import clock_scale
from modes.paravirt.hvm.calls import HVM_CALLS
from modes.paravirt.hvm.domain import HvmDomain
from modes.paravirt.hvm.physmap import PAGE

R8, R10 = 8, 10
ARGUMENTS = (RDI, RSI, RDX, R10, R8)
MASK = (1 << 64) - 1
LAST_LEAF = FIRST_LEAF + 4
TSC_RELIABLE = 1 << 1
KNOWS_VCPU, KNOWS_DOMAIN, HAS_UPCALL_VECTOR = 1 << 3, 1 << 4, 1 << 6  # of leaf 4
VMMCALL_LENGTH = 3


class XenPlatform(Platform):
    """Xen for the guest that `domain` is. `costs`: of the hypercalls that one exit does besides the first."""

    watches_exits = True

    def __init__(self, domain: HvmDomain, costs: CostModel) -> None:
        self.domain = domain
        for v in domain.vcpus:
            v.bill = partial(self._bill, v.cpu, costs)

    @staticmethod
    def _bill(cpu: Cpu, costs: CostModel, name: str) -> None:
        cpu.charge(costs.work_of(f"hypercall.{name}") - costs.run_loop)

    def exit_begins(self) -> None:
        """The guest may have taken an upcall since: its line falls before the guest's end of interrupt is looked at."""
        self.domain.upcall.follow()

    # --- finding Xen ----------------------------------------------------------------------------------------------

    def cpuid(self, cpu: Cpu, leaf: int, subleaf: int) -> Leaf | None:
        if leaf == FIRST_LEAF:
            return (LAST_LEAF, *words(SIGNATURE))
        if leaf == FIRST_LEAF + 1:
            return XEN_VERSION, 0, 0, 0
        if leaf == FIRST_LEAF + 2:
            return 1, HYPERCALL_MSR, 0, 0
        if leaf == FIRST_LEAF + 3:
            return self._clocks(subleaf)
        if leaf == FIRST_LEAF + 4 and subleaf == 0:
            flags = KNOWS_VCPU | KNOWS_DOMAIN | (HAS_UPCALL_VECTOR if self.domain.upcall.vectors else 0)
            return flags, cpu.index, self.domain.domid, 0
        return None

    def _clocks(self, subleaf: int) -> Leaf | None:
        hz = self.domain.timing.tsc_hz
        if subleaf == 0:
            return TSC_RELIABLE, 0, hz // 1000, 0
        if subleaf == 1:  # how the counter becomes ns
            multiplier, shift = clock_scale(hz)
            return 0, 0, multiplier, shift & 0xFF
        return (hz // 1000, 0, 0, 0) if subleaf == 2 else None

    def read_msr(self, number: int) -> int | None:
        return 0 if number == HYPERCALL_MSR else None

    def write_msr(self, number: int, value: int) -> bool:
        """Fill a page of the guest's: bits 63:12 say which, the others which of Xen's pages it is."""
        if number != HYPERCALL_MSR:
            return False
        if value % PAGE or self.domain.physmap.host(value // PAGE) is None:
            raise BadMsr
        self.domain.physmap.dma_write(value, hypercall_page())
        return True

    # --- calling it -----------------------------------------------------------------------------------------------

    def hypercall(self, cpu: Cpu) -> str:
        regs, v = cpu.regs, self.domain.vcpus[cpu.index]
        number = regs[RAX] & 0xFFFF_FFFF
        name = HYPERCALLS.get(number, "unknown")
        v.entries = 0
        try:
            if cpu.cpl:
                result = -EPERM
            elif not cpu.state.hflags & HF_CS64:
                result = -ENOSYS
            else:
                result = call(v, number, [regs[register] for register in ARGUMENTS], HVM_CALLS)
        except Again as again:  # RIP stays
            for register, value in zip(ARGUMENTS, again.arguments, strict=False):
                regs[register] = value & MASK
        else:
            regs[RAX] = result & MASK
            cpu.skip(VMMCALL_LENGTH)
        return f"hypercall.{name}"

    def message(self, address: int, data: int) -> bool:
        """With no vector in it, it says in place of the destination which pirq it is (Xen, hvm_inject_msi)."""
        if data & 0xFF or not self.domain.pirqs:
            return False
        self.domain.events.raise_pirq(address >> 12 & 0xFF)
        return True

    # --- pages ----------------------------------------------------------------------------------------------------

    def placed(self, gpa: int) -> bool:
        return gpa // PAGE in self.domain.physmap.placed

    def page(self, gpa: int) -> int | None:
        return self.domain.physmap.host(gpa // PAGE)


def hypercall_page() -> bytes:
    """A stub of 32 bytes a number: mov $number,%eax; vmmcall; ret. There is no iret: ud2."""
    page = bytearray()
    for number in range(PAGE // STUB_SIZE):
        stub = b"\x0f\x0b" if number == IRET else b"\xb8" + struct.pack("<I", number) + b"\x0f\x01\xd9\xc3"
        page += stub.ljust(STUB_SIZE, b"\xcc")
    return bytes(page)
