"""A vCPU of a PV domain: kernel and user programs both at ring 3, on two top-level page tables.

Xen stands between the two. An exception, a system call or an event of the guest's comes to Xen first, which builds a
frame on the kernel's stack and goes on at the entry point that the kernel has registered: the bounce (Xen,
create_bounce_frame). The way back is the hypercall iret. The frame, upwards from the stack pointer:

    rcx  r11  [error code]  rip  cs  rflags  rsp  ss

`cs` has the privilege level cleared if the kernel was interrupted, 32 bits above it stands the event mask from before,
and the IF that the kernel sees is that mask.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hv.silicon.x86_64.cpu import Cpu, Shutdown
from hv.silicon.x86_64.state import CS, FS, GS, HF_CS64, RAX, RCX, SS
from hv.silicon.x86_64.svm import Vmcb
from hv.x86_64.decode import decode
from modes.paravirt.abi import FLAT_RING3_CS64, FLAT_RING3_SS, VGCF_IN_SYSCALL, VMASST_ARCHITECTURAL_IOPL, Refused
from modes.paravirt.common import XenVcpu
from modes.paravirt.descriptors import BIG, CODE, DESCRIPTOR_PRESENT, LONG, NOT_SYSTEM, WRITABLE_OR_READABLE
from modes.paravirt.events import CR2, UPCALL_MASK
from modes.paravirt.guest_memory import PvMemory, outside_xen
from modes.paravirt.state import Callback, PvVcpuState

if TYPE_CHECKING:
    import capstone

    from modes.paravirt.domain import Domain

R11 = 11
FLAG_TF, FLAG_IF, FLAG_DF, FLAG_NT, FLAG_RF, FLAG_VM, FLAG_AC = (
    1 << 8,
    1 << 9,
    1 << 10,
    1 << 14,
    1 << 16,
    1 << 17,
    1 << 18,
)
FLAG_IOPL = 3 << 12
FLAGS = 0x3F_7FD7  # that exist
CR0, CR0_TS, CR4 = 0x8001_0033, 1 << 3, 0x620  # PG WP NE ET MP PE; OSXMMEXCPT OSFXSR PAE
EFER = 0xD00  # NXE LMA LME; no SYSCALL, so that it faults: the one exit that LSTAR would be on hardware
RING_3_CODE_64, RING_3_CODE_32, RING_3_DATA = 0xAFB, 0xCFB, 0xCF3
GDT_BASE, GDT_SPAN = 0xFFFF_8200_0000_0000, 0x1_0000  # Xen's mapping of each vCPU's GDT, in slot 260
GDT_LIMIT = 0xEFFF
IRET_FRAME = struct.Struct("<9Q")
UD, NM, PF = 6, 7, 14
PF_USER = 1 << 2


class PvVcpu(XenVcpu):
    """What calls.py and mode.py work on: the virtual CPU's state, the real CPU under it, its memory."""

    domain: Domain
    memory: PvMemory
    s: PvVcpuState

    def __init__(self, domain: Domain, index: int, cpu: Cpu, vmcb: Vmcb, s: PvVcpuState) -> None:
        super().__init__(index, cpu)
        self.domain, self.vmcb, self.s = domain, vmcb, s
        self.memory = PvMemory(domain.memory)
        self.flush = False  # the TLB is to be emptied before the guest goes on

    def flush_tlb(self, *, one_page: bool) -> None:
        """The guest wants it. Simplified: the whole TLB goes; it is charged as what was asked for."""
        self.flush = True
        timing = self.cpu.timing
        self.cpu.charge(timing.invlpg if one_page else timing.cr_access)

    # --- the real CPU -----------------------------------------------------------------------------------------

    def first_vmcb(self) -> None:
        """What no guest can change: everything at ring 3, every exception to Xen, no port in the TSS."""
        vmcb = self.vmcb
        vmcb.cs.selector, vmcb.cs.attrib, vmcb.cs.limit = FLAT_RING3_CS64, RING_3_CODE_64, 0xFFFF_FFFF
        for name in ("es", "ds", "fs", "gs", "ss"):
            segment = getattr(vmcb, name)
            segment.selector, segment.attrib, segment.limit = 0, RING_3_DATA, 0xFFFF_FFFF
        vmcb.ss.selector = FLAT_RING3_SS
        vmcb.gdtr.base, vmcb.gdtr.limit = GDT_BASE + GDT_SPAN * self.index, GDT_LIMIT
        vmcb.idtr.base = vmcb.idtr.limit = 0
        vmcb.tr.attrib, vmcb.tr.limit, vmcb.ldtr.attrib = 0x8B, 0, 0x82
        vmcb.cr0, vmcb.cr4, vmcb.efer, vmcb.cpl = CR0, CR4, EFER, 3
        vmcb.rflags, vmcb.dr6, vmcb.dr7, vmcb.g_pat = FLAG_IF | 2, 0xFFFF_0FF0, 0x400, 0x0007_0406_0007_0406

    def load_root(self) -> None:
        """The page tables of the mode that the vCPU is in; also empties the TLB."""
        s = self.s
        self.memory.root = s.root
        self.cpu.load_root((s.root if s.kernel_mode else s.user_root) << 12)
        self.cpu.charge(self.cpu.timing.cr_access + self.cpu.walk_cost)  # and the one TLB fill that is certain

    def set_task_switched(self, on: bool) -> None:
        self.s.task_switched = on
        cr0 = CR0 | (CR0_TS if on else 0)
        if self.vmcb.cr0 != cr0 or self.cpu.entered:
            self.cpu.leave()  # the CPU keeps what follows from CR0 in more than one place
            self.vmcb.cr0 = cr0

    def toggle_mode(self) -> None:
        """From the kernel to user programs, or back: page tables and the GS base."""
        s = self.s
        s.kernel_mode = not s.kernel_mode
        s.other_gs, gs = self.gs_base, s.other_gs
        self.gs_base = gs
        self.load_root()

    @property
    def gs_base(self) -> int:
        return self.cpu.state.segs[GS].base  # which no world switch changes

    @gs_base.setter
    def gs_base(self, value: int) -> None:
        self.cpu.state.segs[GS].base = self.vmcb.gs.base = value

    def set_fs_base(self, value: int) -> None:
        self.cpu.state.segs[FS].base = self.vmcb.fs.base = value

    def _load_flat_segments(self) -> None:
        """CS and SS of the kernel. A program in 32-bit code has come from another code size."""
        if self.cpu.entered and self.cpu.state.hflags & HF_CS64:
            self.cpu.state.segs[CS].selector, self.cpu.state.segs[SS].selector = FLAT_RING3_CS64, FLAT_RING3_SS
        else:
            self.cpu.leave()
            self.vmcb.cs.selector, self.vmcb.cs.attrib, self.vmcb.cs.base = FLAT_RING3_CS64, RING_3_CODE_64, 0
            self.vmcb.ss.selector, self.vmcb.ss.attrib = FLAT_RING3_SS, RING_3_DATA

    @property
    def selectors(self) -> tuple[int, int]:
        """CS and SS."""
        if self.cpu.entered:
            return self.cpu.state.segs[CS].selector & 0xFFFF, self.cpu.state.segs[SS].selector & 0xFFFF
        return self.vmcb.cs.selector, self.vmcb.ss.selector

    @property
    def in_64_bit_code(self) -> bool:
        return bool(self.cpu.state.hflags & HF_CS64)

    def instruction(self) -> capstone.CsInsn | None:
        """The instruction at RIP, decoded."""
        return decode(self.cpu.instruction_bytes(), self.in_64_bit_code)

    # --- the bounce -------------------------------------------------------------------------------------------

    def bounce(self, to: Callback, error: int | None = None, *, clear: int = 0) -> None:
        """Enter the guest's kernel at `to` with a frame that says what was interrupted. `clear`: flags besides."""
        s, cpu = self.s, self.cpu
        cs, ss = self.selectors
        rsp, flags = cpu.rsp, cpu.rflags
        if s.kernel_mode:
            stack, cs = rsp, cs & ~3
        else:
            self.toggle_mode()
            stack = s.kernel_sp
        mask_address = s.info + UPCALL_MASK
        mask = self.domain.memory.read(mask_address, 1)[0]
        shown = flags & ~(FLAG_IF | FLAG_IOPL) | (0 if mask else FLAG_IF)
        if self.domain.assists >> VMASST_ARCHITECTURAL_IOPL & 1:
            shown |= s.iopl << 12
        words = [cpu.rip, cs | mask << 32, shown, rsp, ss]
        if error is not None:
            words.insert(0, error)
        frame = struct.pack(f"<{2 + len(words)}Q", cpu.regs[RCX], cpu.regs[R11], *words)
        stack = (stack & ~0xF) - len(frame)
        try:
            self.memory.write(stack & (1 << 64) - 1, frame)
        except Refused:
            raise Shutdown(f"the domain's kernel stack at {stack:#x} cannot be written") from None
        if not to.address:
            raise Shutdown(f"the domain has no entry point for what happened at RIP {cpu.rip:#x}")
        if to.mask:
            self.domain.memory.write(mask_address, b"\1")
        self._load_flat_segments()
        cpu.rsp, cpu.rip = stack, to.address
        cpu.rflags = flags & ~(FLAG_AC | FLAG_VM | FLAG_RF | FLAG_NT | FLAG_TF | clear)

    def exception(self, vector: int, error: int | None = None, address: int | None = None) -> None:
        """An exception for the guest's kernel, through its trap table."""
        if vector == PF:
            assert error is not None
            error = error & ~PF_USER | (0 if self.s.kernel_mode else PF_USER)
            if address is not None:
                self.domain.memory.write_u64(self.s.info + CR2, address)
        trap = self.s.traps.get(vector)
        if trap is None:
            raise Shutdown(f"the domain has no trap for exception {vector} at RIP {self.cpu.rip:#x}")
        if vector == NM:
            self.set_task_switched(False)  # Xen has, before the kernel hears of it
        self.bounce(Callback(trap.address, bool(trap.flags & 4)), error)

    def system_call(self, length: int) -> None:
        """SYSCALL of a user program."""
        cpu, s = self.cpu, self.s
        if not s.syscall.address:
            self.exception(UD)
            return
        cpu.skip(length)
        cpu.regs[RCX], cpu.regs[R11] = cpu.rip, cpu.rflags
        self.bounce(s.syscall, clear=FLAG_DF)

    def iret(self) -> None:
        """The hypercall iret: go on with what a frame on the stack describes (struct iret_context)."""
        cpu, s = self.cpu, self.s
        try:
            rax, r11, rcx, flags, rip, cs, rflags, rsp, ss = self.memory.unpack(IRET_FRAME, cpu.rsp)
        except Refused:
            raise Shutdown(f"hypercall iret: no frame at RSP {cpu.rsp:#x}") from None
        cpu.m.retired += 1
        if cs & 3 == 3:
            if not s.user_root:
                raise Shutdown("hypercall iret to user mode without page tables for it")
            self.toggle_mode()
        cs, ss = cs & 0xFFFF | 3, ss & 0xFFFF | 3
        if self.domain.assists >> VMASST_ARCHITECTURAL_IOPL & 1:
            s.iopl = rflags >> 12 & 3
        self.domain.memory.write(s.info + UPCALL_MASK, b"\0" if rflags & FLAG_IF else b"\1")
        if not outside_xen(rip) or not self.enter_segments(cs, ss):
            raise Shutdown(f"hypercall iret to {cs:#x}:{rip:#x}, stack segment {ss:#x}, which is no place for ring 3")
        if not self.domain.descriptor(s, cs) & LONG:
            rip, rsp = rip & 0xFFFF_FFFF, rsp & 0xFFFF_FFFF
        cpu.rip, cpu.rsp = rip, rsp
        cpu.rflags = rflags & FLAGS & ~(FLAG_IOPL | FLAG_VM) | FLAG_IF | 2
        if flags & VGCF_IN_SYSCALL:  # as SYSRET leaves them
            cpu.regs[RCX], cpu.regs[R11] = rip, rflags
        else:
            cpu.regs[RCX], cpu.regs[R11] = rcx, r11
        cpu.regs[RAX] = rax

    def enter_segments(self, cs: int, ss: int) -> bool:
        """Load CS and SS as IRET does. False if the descriptors do not allow it."""
        code, stack = self.domain.descriptor(self.s, cs), self.domain.descriptor(self.s, ss)
        code_needed, stack_needed = DESCRIPTOR_PRESENT | NOT_SYSTEM | CODE, DESCRIPTOR_PRESENT | NOT_SYSTEM
        if code & code_needed != code_needed or stack & (stack_needed | WRITABLE_OR_READABLE | CODE) != (
            stack_needed | WRITABLE_OR_READABLE
        ):
            return False
        cpu, long = self.cpu, bool(code & LONG)
        if not long and (not code & BIG or code >> 16 & 0xFF_FFFF or code >> 56):
            return False  # simplified: 32-bit code is flat
        if not (long and cpu.entered and cpu.state.hflags & HF_CS64):
            cpu.leave()
            self.vmcb.cs.attrib, self.vmcb.ss.attrib = RING_3_CODE_64 if long else RING_3_CODE_32, RING_3_DATA
            self.vmcb.cs.selector, self.vmcb.ss.selector = cs, ss
        else:
            cpu.state.segs[CS].selector, cpu.state.segs[SS].selector = cs, ss
        return True
