"""The guest's CPU: the virtual state, the real CPU under it, and memory as the guest's CPU sees it."""

from __future__ import annotations

from hv.silicon.x86_64.cpu import Cpu, Shutdown
from hv.silicon.x86_64.svm import Vmcb
from modes.full_emulation.pager import Ring3Pager
from modes.full_emulation.state import (
    CR0_REAL,
    CR4_REAL,
    CS,
    FLAG_IF,
    FLAG_IOPL,
    FLAG_TF,
    VirtualCpu,
)
from modes.shadow.guest_tables import ALL
from modes.shadow.registers import GuestFault

SS_VECTOR, GP = 12, 13
RING_3_CODE_64, RING_3_CODE_32, RING_3_DATA = 0xAFB, 0xCFB, 0xCF3
REAL_CR0, REAL_CR4, REAL_EFER = 0x8001_0011, 0x24, 0xD00  # PG WP ET PE; PAE TSD; NXE LMA LME, and no SYSCALL
CR4_TSD = 1 << 2


class Core:
    """What reflect.py and emulate.py work on."""

    def __init__(self, cpu: Cpu, vmcb: Vmcb, v: VirtualCpu, pager: Ring3Pager) -> None:
        self.cpu, self.vmcb, self.v, self.pager = cpu, vmcb, v, pager
        self.root = 0  # what the real CPU has
        self.stepping = False  # TF is set in the real CPU, by us
        self.trap = False  # TF as the guest's kernel has it
        self.passes_tsc = False  # RDTSC is the real CPU's, unless the guest forbids it to its user

    # --- the real CPU -----------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Bring the real CPU in line with the virtual one: page tables, code size, what CR0 and CR4 let through."""
        v, vmcb, cpu = self.v, self.vmcb, self.cpu
        code = RING_3_CODE_64 if v.long_code else RING_3_CODE_32
        cr0, cr4 = REAL_CR0 | v.cr0 & CR0_REAL, REAL_CR4 | v.cr4 & CR4_REAL
        if self.passes_tsc and not (v.cr4 & CR4_TSD and v.cpl):
            cr4 &= ~CR4_TSD
        if (self.code, self.cr0, self.cr4) != (code, cr0, cr4):
            cpu.leave()
            self.code, self.cr0, self.cr4 = code, cr0, cr4
            vmcb.cs.attrib, vmcb.cr0, vmcb.cr4 = code, cr0, cr4
        self.load_root()

    code = cr0 = cr4 = 0

    def load_root(self) -> None:
        root = self.pager.root()
        if root != self.root:
            self.root = root
            self.cpu.load_root(root)

    def flush(self) -> None:
        """Empty the real TLB."""
        if self.root:
            self.cpu.load_root(self.root)

    def first_vmcb(self) -> None:
        """The parts of the real CPU's first state that do not depend on the guest."""
        vmcb = self.vmcb
        for name in ("es", "ss", "ds", "fs", "gs"):
            segment = getattr(vmcb, name)
            segment.selector, segment.attrib, segment.limit = 0, RING_3_DATA, 0xFFFF_FFFF
        vmcb.cs.limit = 0xFFFF_FFFF
        # No descriptor at all: whatever selector the guest loads, it faults.
        vmcb.gdtr.base = vmcb.gdtr.limit = vmcb.idtr.base = vmcb.idtr.limit = 0
        vmcb.tr.attrib, vmcb.tr.limit, vmcb.ldtr.attrib = 0x8B, 0, 0x82
        vmcb.cpl, vmcb.efer, vmcb.dr6, vmcb.dr7 = 3, REAL_EFER, 0xFFFF_0FF0, 0x400

    # --- flags ------------------------------------------------------------------------------------------------

    @property
    def flags(self) -> int:
        """RFLAGS as the guest believes they are."""
        v = self.v
        value = self.cpu.rflags & ~(FLAG_IF | FLAG_IOPL) | v.interrupts * FLAG_IF | v.iopl << 12
        return value & ~FLAG_TF if self.stepping else value

    @flags.setter
    def flags(self, value: int) -> None:
        v = self.v
        v.interrupts, v.iopl, self.trap = bool(value & FLAG_IF), value >> 12 & 3, bool(value & FLAG_TF)
        self.cpu.rflags = value & ~FLAG_IOPL | FLAG_IF | 2

    # --- linear memory ----------------------------------------------------------------------------------------

    def read(self, address: int, size: int, *, system: bool = False) -> bytes:
        """Data as the guest's CPU reads it; `system` for descriptor tables and the TSS, which ring 3 may use too."""
        return self.pager.read_linear(address, size, user=self.v.cpl == 3 and not system)

    def write(self, address: int, data: bytes, *, system: bool = False) -> None:
        self.pager.write_linear(address, data, user=self.v.cpl == 3 and not system)

    def read_int(self, address: int, size: int, *, system: bool = False) -> int:
        return int.from_bytes(self.read(address, size, system=system), "little")

    def read_stack(self, address: int, size: int) -> int:
        """A word of the stack: an address that is not canonical is #SS there."""
        if self.v.long_mode and address >> 47 not in (0, 0x1FFFF):
            raise GuestFault(SS_VECTOR)
        return self.read_int(address & self.mask, size)

    def push(self, address: int, size: int, value: int) -> None:
        if self.v.long_mode and address >> 47 not in (0, 0x1FFFF):
            raise GuestFault(SS_VECTOR)
        self.write(address & self.mask, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    @property
    def mask(self) -> int:
        return ALL if self.v.long_code else 0xFFFF_FFFF

    # --- segments ---------------------------------------------------------------------------------------------

    def descriptor(self, selector: int, vector: int = GP) -> int:
        """The descriptor that a selector names, from the guest's GDT or LDT."""
        base, limit = self.v.ldt[1:] if selector & 4 else self.v.gdt
        if (selector | 7) > limit:
            raise GuestFault(vector, selector & 0xFFFC)
        return self.read_int(base + (selector & ~7), 8, system=True)

    def enter_code(self, selector: int, descriptor: int, cpl: int) -> None:
        """CS gets a new value, and with it the CPU a privilege level and a code size."""
        v = self.v
        base = descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000
        v.long_code = v.long_mode and bool(descriptor >> 53 & 1)
        if not v.long_code and (base or not descriptor >> 54 & 1):
            raise Shutdown(f"code segment {selector:#x} is not flat 32-bit code, which hv does not emulate here")
        v.selectors[CS] = selector & ~3 | cpl
        v.cpl = cpl
