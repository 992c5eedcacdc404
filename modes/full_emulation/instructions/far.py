"""Transfers that change CS: far JMP, CALL and RET, IRET, SYSRET. Simplified: no call gates and no task switches."""

from __future__ import annotations

import capstone
from capstone import x86

from modes.full_emulation.instructions.operands import Operands
from modes.full_emulation.instructions.segments import NOT_SYSTEM
from modes.full_emulation.reflect import CODE, CONFORMING, GP, NP, PRESENT, interrupt_return, system_return
from modes.full_emulation.state import SS
from modes.shadow.registers import GuestFault


class FarTransfers(Operands):
    """The checks of the new code segment are in `far` (APM vol. 2, 4.11)."""

    def far(self, selector: int, rip: int, *, returning: bool = False) -> None:
        """CS:RIP get new values. Simplified: no call gates and no task switches."""
        core, v = self.core, self.core.v
        named, rpl = selector & 0xFFFC, selector & 3
        if not named:
            raise GuestFault(GP)
        descriptor = core.descriptor(selector)
        dpl = descriptor >> 45 & 3
        if not (descriptor & NOT_SYSTEM and descriptor & CODE):
            raise GuestFault(GP, named)
        if returning:
            wrong = rpl < v.cpl or (dpl > rpl if descriptor & CONFORMING else dpl != rpl)
        else:
            wrong = dpl > v.cpl if descriptor & CONFORMING else rpl > v.cpl or dpl != v.cpl
        if wrong:
            raise GuestFault(GP, named)
        if not descriptor & PRESENT:
            raise GuestFault(NP, named)
        if descriptor >> 53 & 1 and rip >> 47 not in (0, 0x1FFFF):
            raise GuestFault(GP)
        core.enter_code(selector, descriptor, rpl if returning else v.cpl)
        self.cpu.rip = rip
        self.cpu.m.retired += 1

    def far_pointer(self, i: capstone.CsInsn) -> tuple[int, int, int]:
        """Selector, offset and operand size of a far JMP or CALL."""
        if i.operands[0].type == x86.X86_OP_IMM:
            immediates = [operand.imm for operand in i.operands]
            return immediates[0] & 0xFFFF, immediates[1] & 0xFFFF_FFFF, 4
        size = 8 if i.rex & 8 else 2 if i.prefix[2] == 0x66 else 4
        raw = self.core.read(self.address(i, i.operands[0]), size + 2)
        return int.from_bytes(raw[size:], "little"), int.from_bytes(raw[:size], "little"), size

    def far_jump(self, i: capstone.CsInsn) -> str:
        selector, rip, _ = self.far_pointer(i)
        self.far(selector, rip)
        return "segment"

    def far_call(self, i: capstone.CsInsn) -> str:
        core = self.core
        selector, rip, size = self.far_pointer(i)
        back, cs, stack = self.cpu.rip + i.size, core.v.selectors[1], self.cpu.rsp
        core.push(stack - size & core.mask, size, cs)
        core.push(stack - 2 * size & core.mask, size, back)
        self.far(selector, rip)
        self.cpu.rsp = stack - 2 * size & core.mask
        return "segment"

    def far_return(self, i: capstone.CsInsn) -> str:
        core, v, cpu = self.core, self.core.v, self.cpu
        size = 8 if i.rex & 8 else 2 if i.prefix[2] == 0x66 else 4
        extra = i.operands[0].imm if i.operands else 0
        stack, old = cpu.rsp, v.cpl
        rip, selector = core.read_stack(stack, size), core.read_stack(stack + size, size) & 0xFFFF
        after, ss = stack + 2 * size + extra, v.selectors[SS]
        if selector & 3 > old:
            inner = after
            after, ss = core.read_stack(inner, size) + extra, core.read_stack(inner + size, size) & 0xFFFF
        self.far(selector, rip, returning=True)
        v.selectors[SS] = ss
        cpu.rsp = after & core.mask
        return "segment"

    def iret(self, i: capstone.CsInsn) -> str:
        interrupt_return(self.core, {x86.X86_INS_IRET: 2, x86.X86_INS_IRETD: 4, x86.X86_INS_IRETQ: 8}[i.id])
        return "iret"

    def sysret(self, i: capstone.CsInsn) -> str:
        system_return(self.core, wide=bool(i.rex & 8))
        return "sysret"
