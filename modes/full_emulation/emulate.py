"""The instructions that the hypervisor executes for the guest: privileged ones, and the sensitive ones made to trap.

capstone decodes. Every handler performs one instruction on the virtual CPU and returns the reason of the exit; what the
hardware would refuse it refuses with GuestFault, before it has changed anything (APM vol. 3, each instruction's page).
"""

from __future__ import annotations

from collections.abc import Callable

import capstone
from capstone import x86

from hv.silicon.x86_64.msr import EFER, BadMsr, read_msr, write_msr
from hv.silicon.x86_64.state import RAX, RCX, RDX
from hv.x86_64.decode import MASKS, read_register, register_name, write_register
from hv.x86_64.guest_cpuid import answer_cpuid
from modes.full_emulation.instructions.far import FarTransfers
from modes.full_emulation.instructions.ports import STRING_SIZES, Ports
from modes.full_emulation.instructions.segments import Segments
from modes.full_emulation.reflect import GP, UD
from modes.full_emulation.state import FLAG_IF, FLAG_IOPL, FLAG_RF, FLAG_VM, GS
from modes.shadow.registers import CR0_PE, CR0_TS, GuestFault

USER_CHANGEABLE = 0x24_4DD5  # ID AC NT OF DF TF SF ZF AF PF CF
SEGMENT_REGISTERS = {
    x86.X86_REG_ES: 0, x86.X86_REG_CS: 1, x86.X86_REG_SS: 2, x86.X86_REG_DS: 3, x86.X86_REG_FS: 4, x86.X86_REG_GS: 5,
}  # fmt: skip


class Emulator(Segments, FarTransfers, Ports):
    """One instruction at a time."""

    def run(self, instruction: capstone.CsInsn) -> str | None:
        """Execute it. None when it is none that the hypervisor executes."""
        handler = HANDLERS.get(instruction.id)
        return None if handler is None else handler(self, instruction)

    # --- flags and waiting ------------------------------------------------------------------------------------

    def cli(self, i: capstone.CsInsn) -> str:
        v = self.core.v
        if v.cpl > v.iopl:
            raise GuestFault(GP)
        v.interrupts = False
        return self.done(i, "cli")

    def sti(self, i: capstone.CsInsn) -> str:
        v = self.core.v
        if v.cpl > v.iopl:
            raise GuestFault(GP)
        was, v.interrupts = v.interrupts, True
        self.cpu.skip(i.size)
        if not was:
            v.shadow = self.cpu.rip
        return "sti"

    def hlt(self, i: capstone.CsInsn) -> str:
        self.privileged()
        self.cpu.halted = True
        return self.done(i, "hlt")

    def pushf(self, i: capstone.CsInsn) -> str:
        size = FLAG_SIZES[i.id]
        stack = self.cpu.rsp - size
        self.core.push(stack & self.core.mask, size, self.core.flags & ~(FLAG_RF | FLAG_VM))
        self.cpu.rsp = stack & self.core.mask
        return self.done(i, "pushf")

    def popf(self, i: capstone.CsInsn) -> str:
        core, v = self.core, self.core.v
        size = FLAG_SIZES[i.id]
        new = core.read_stack(self.cpu.rsp, size)
        changeable = USER_CHANGEABLE | (FLAG_IOPL if not v.cpl else 0) | (FLAG_IF if v.cpl <= v.iopl else 0)
        changeable &= MASKS[size]
        core.flags = (core.flags & ~changeable | new & changeable) & ~FLAG_RF
        self.cpu.rsp = self.cpu.rsp + size & core.mask
        return self.done(i, "popf")

    # --- control registers ------------------------------------------------------------------------------------

    def mov(self, i: capstone.CsInsn) -> str | None:
        """MOV with a control, debug or segment register."""
        target, source = i.operands
        if target.type == x86.X86_OP_REG and target.reg in SEGMENT_REGISTERS:
            self.load_segment(SEGMENT_REGISTERS[target.reg], self.get(i, source, 2))
            self.cpu.skip(i.size)
            if target.reg == x86.X86_REG_SS:
                self.core.v.shadow = self.cpu.rip
            return "segment"
        if source.type == x86.X86_OP_REG and source.reg in SEGMENT_REGISTERS:
            self.put_word(i, target, self.core.v.selectors[SEGMENT_REGISTERS[source.reg]])
            return self.done(i, "segment")
        if target.type != x86.X86_OP_REG or source.type != x86.X86_OP_REG:
            return None
        to, of = register_name(target.reg), register_name(source.reg)
        if to[:2] in ("cr", "dr"):
            self.privileged()
            value = read_register(self.cpu, of)
            if to[0] == "c":
                self.write_cr(int(to[2:]), value)
                return self.done(i, "cr8_write" if to == "cr8" else "cr_access")
            self.core.v.dr[int(to[2:])] = value & 0xFFFF_2300 | 0x400 if to == "dr7" else value
            return self.done(i, "privileged")
        if of[:2] in ("cr", "dr"):
            self.privileged()
            number = int(of[2:])
            write_register(self.cpu, to, self.read_cr(number) if of[0] == "c" else self.core.v.dr[number])
            return self.done(i, "cr_access" if of[0] == "c" else "privileged")
        return None

    def read_cr(self, number: int) -> int:
        v = self.core.v
        values = {0: v.cr0, 2: v.cr2, 3: v.cr3, 4: v.cr4, 8: self.cpu.tpr}
        if number not in values:
            raise GuestFault(UD)
        return values[number]

    def write_cr(self, number: int, value: int) -> None:
        v = self.core.v
        if number == 0:
            v.write_cr0(value, long_code=v.long_code)
        elif number == 2:
            v.cr2 = value
        elif number == 3:
            v.cr3 = value
        elif number == 4:
            v.write_cr4(value)
        elif number == 8:
            if value >> 4:
                raise GuestFault(GP)
            self.cpu.tpr = value
        else:
            raise GuestFault(UD)
        if number in (0, 3, 4):
            self.core.pager.synchronise()

    def clts(self, i: capstone.CsInsn) -> str:
        self.privileged()
        self.core.v.cr0 &= ~CR0_TS
        return self.done(i, "cr_access")

    def lmsw(self, i: capstone.CsInsn) -> str:
        self.privileged()
        v = self.core.v
        value = self.get(i, i.operands[0], 2)
        v.cr0 = v.cr0 & ~0xE | value & 0xF | v.cr0 & CR0_PE
        return self.done(i, "cr_access")

    def smsw(self, i: capstone.CsInsn) -> str:
        self.put_word(i, i.operands[0], self.core.v.cr0)
        return self.done(i, "cr_access")

    def invlpg(self, i: capstone.CsInsn) -> str:
        self.privileged()
        self.core.pager.synchronise_page(self.address(i, i.operands[0]))
        return self.done(i, "invlpg")

    def nothing(self, i: capstone.CsInsn) -> str:
        """WBINVD, INVD: there are no caches to see."""
        self.privileged()
        return self.done(i, "privileged")

    def not_offered(self, i: capstone.CsInsn) -> str:
        """SVM is not offered to the guest."""
        self.privileged()
        raise GuestFault(UD)

    def undefined(self, i: capstone.CsInsn) -> str:
        """XSETBV: CR4.OSXSAVE is never set."""
        raise GuestFault(UD)

    def refused(self, i: capstone.CsInsn) -> str:
        """RDPMC: no counters."""
        raise GuestFault(GP)

    # --- MSRs, CPUID, time ------------------------------------------------------------------------------------

    def rdmsr(self, i: capstone.CsInsn) -> str:
        self.privileged()
        regs = self.cpu.regs
        number = regs[RCX] & 0xFFFF_FFFF
        try:
            value = self.core.v.efer if number == EFER else read_msr(self.cpu, number)
        except BadMsr:
            raise GuestFault(GP) from None
        regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
        return self.done(i, "msr")

    def wrmsr(self, i: capstone.CsInsn) -> str:
        self.privileged()
        regs, v = self.cpu.regs, self.core.v
        number = regs[RCX] & 0xFFFF_FFFF
        value = (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF
        if number == EFER:
            v.write_efer(value)
            self.core.pager.drop_all()  # EFER.NXE decides what an entry means
        else:
            try:
                write_msr(self.cpu, number, value)
            except BadMsr:
                raise GuestFault(GP) from None
        return self.done(i, "msr")

    def swapgs(self, i: capstone.CsInsn) -> str:
        self.privileged()
        state = self.cpu.state
        state.segs[GS].base, state.kernelgsbase = state.kernelgsbase, state.segs[GS].base
        return self.done(i, "swapgs")

    def cpuid(self, i: capstone.CsInsn) -> str:
        answer_cpuid(self.cpu, self.board.platform)
        return self.done(i, "cpuid")

    def rdtsc(self, i: capstone.CsInsn) -> str:
        if self.core.v.cr4 & 4 and self.core.v.cpl:
            raise GuestFault(GP)
        self.cpu.skip(i.size)
        value = read_msr(self.cpu, 0x10)
        regs = self.cpu.regs
        regs[RAX], regs[RDX] = value & 0xFFFF_FFFF, value >> 32
        if i.id == x86.X86_INS_RDTSCP:
            regs[RCX] = read_msr(self.cpu, 0xC000_0103) & 0xFFFF_FFFF
        return "rdtsc"

    # --- segment registers on the stack ------------------------------------------------------------------------

    def push(self, i: capstone.CsInsn) -> str | None:
        index = SEGMENT_REGISTERS.get(i.operands[0].reg)
        if index is None:
            return None
        size = self.stack_size(i)
        stack = self.cpu.rsp - size & self.core.mask
        self.core.push(stack, size, self.core.v.selectors[index])
        self.cpu.rsp = stack
        return self.done(i, "segment")

    def pop(self, i: capstone.CsInsn) -> str | None:
        index = SEGMENT_REGISTERS.get(i.operands[0].reg)
        if index is None:
            return None
        size = self.stack_size(i)
        self.load_segment(index, self.core.read_stack(self.cpu.rsp, size) & 0xFFFF)
        self.cpu.rsp = self.cpu.rsp + size & self.core.mask
        return self.done(i, "segment")

    def stack_size(self, i: capstone.CsInsn) -> int:
        if i.prefix[2] == 0x66:
            return 2
        return 8 if self.core.v.long_code else 4


FLAG_SIZES = {
    x86.X86_INS_PUSHF: 2, x86.X86_INS_PUSHFD: 4, x86.X86_INS_PUSHFQ: 8,
    x86.X86_INS_POPF: 2, x86.X86_INS_POPFD: 4, x86.X86_INS_POPFQ: 8,
}  # fmt: skip
HANDLERS: dict[int, Callable[[Emulator, capstone.CsInsn], str | None]] = {
    x86.X86_INS_CLI: Emulator.cli,
    x86.X86_INS_STI: Emulator.sti,
    x86.X86_INS_HLT: Emulator.hlt,
    x86.X86_INS_MOV: Emulator.mov,
    x86.X86_INS_CLTS: Emulator.clts,
    x86.X86_INS_LMSW: Emulator.lmsw,
    x86.X86_INS_SMSW: Emulator.smsw,
    x86.X86_INS_INVLPG: Emulator.invlpg,
    x86.X86_INS_WBINVD: Emulator.nothing,
    x86.X86_INS_INVD: Emulator.nothing,
    x86.X86_INS_RDMSR: Emulator.rdmsr,
    x86.X86_INS_WRMSR: Emulator.wrmsr,
    x86.X86_INS_SWAPGS: Emulator.swapgs,
    x86.X86_INS_CPUID: Emulator.cpuid,
    x86.X86_INS_RDTSC: Emulator.rdtsc,
    x86.X86_INS_RDTSCP: Emulator.rdtsc,
    x86.X86_INS_RDPMC: Emulator.refused,
    x86.X86_INS_XSETBV: Emulator.undefined,
    x86.X86_INS_LGDT: Emulator.load_table,
    x86.X86_INS_LIDT: Emulator.load_table,
    x86.X86_INS_SGDT: Emulator.store_table,
    x86.X86_INS_SIDT: Emulator.store_table,
    x86.X86_INS_LLDT: Emulator.load_system,
    x86.X86_INS_LTR: Emulator.load_system,
    x86.X86_INS_SLDT: Emulator.store_system,
    x86.X86_INS_STR: Emulator.store_system,
    x86.X86_INS_PUSH: Emulator.push,
    x86.X86_INS_POP: Emulator.pop,
    x86.X86_INS_LJMP: Emulator.far_jump,
    x86.X86_INS_LCALL: Emulator.far_call,
    x86.X86_INS_RETF: Emulator.far_return,
    x86.X86_INS_RETFQ: Emulator.far_return,
    x86.X86_INS_IRET: Emulator.iret,
    x86.X86_INS_IRETD: Emulator.iret,
    x86.X86_INS_IRETQ: Emulator.iret,
    x86.X86_INS_SYSRET: Emulator.sysret,
    x86.X86_INS_SYSRETQ: Emulator.sysret,
    x86.X86_INS_IN: Emulator.port,
    x86.X86_INS_OUT: Emulator.port,
    **dict.fromkeys(STRING_SIZES, Emulator.string_port),
    **{number: (Emulator.pushf if number in list(FLAG_SIZES)[:3] else Emulator.popf) for number in FLAG_SIZES},
    **dict.fromkeys(
        (x86.X86_INS_LAR, x86.X86_INS_LSL, x86.X86_INS_VERR, x86.X86_INS_VERW), Emulator.look_at_segment
    ),
    **dict.fromkeys(
        (
            x86.X86_INS_VMRUN, x86.X86_INS_VMLOAD, x86.X86_INS_VMSAVE, x86.X86_INS_STGI, x86.X86_INS_CLGI,
            x86.X86_INS_SKINIT, x86.X86_INS_INVLPGA,
        ),
        Emulator.not_offered,
    ),
}  # fmt: skip
