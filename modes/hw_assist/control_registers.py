"""MOV with CR0, CR3 or CR4, CLTS, LMSW and SMSW, on registers of a guest's that are not the real CPU's."""

from __future__ import annotations

import capstone
from capstone import x86

from hv.silicon.x86_64.cpu import Cpu
from hv.silicon.x86_64.state import HF_CS64
from hv.x86_64.decode import address_of, read_register, write_register
from modes.shadow.pager import Pager
from modes.shadow.registers import CR0_TS, PagingRegisters

CR0, CR3, CR4 = 0, 3, 4


def access(cpu: Cpu, i: capstone.CsInsn, number: int, r: PagingRegisters, pager: Pager, *, write: bool) -> None:
    """Execute instruction `i`, which reads or writes CR`number`. Raises GuestFault, and then nothing has changed."""
    if i.id == x86.X86_INS_SMSW:
        _put_word(cpu, i, r.cr0, pager)
    elif not write:
        write_register(cpu, i.reg_name(i.operands[0].reg), (r.cr0, 0, 0, r.cr3, r.cr4)[number])
    elif number == CR3:
        r.cr3 = read_register(cpu, i.reg_name(i.operands[1].reg))
    elif number == CR4:
        r.write_cr4(read_register(cpu, i.reg_name(i.operands[1].reg)))
    else:
        r.write_cr0(_new_cr0(cpu, i, r.cr0, pager), long_code=bool(cpu.state.hflags & HF_CS64))


def _new_cr0(cpu: Cpu, i: capstone.CsInsn, cr0: int, pager: Pager) -> int:
    """What MOV CR0, LMSW or CLTS writes."""
    if i.id == x86.X86_INS_CLTS:
        return cr0 & ~CR0_TS
    if i.id == x86.X86_INS_LMSW:
        return cr0 & ~0xE | _get_word(cpu, i, pager) & 0xF
    return read_register(cpu, i.reg_name(i.operands[1].reg))


def _get_word(cpu: Cpu, i: capstone.CsInsn, pager: Pager) -> int:
    """The 16-bit operand of LMSW."""
    operand = i.operands[0]
    if operand.type == x86.X86_OP_REG:
        return read_register(cpu, i.reg_name(operand.reg)) & 0xFFFF
    return int.from_bytes(pager.read_linear(address_of(cpu, i, operand), 2, user=cpu.cpl == 3), "little")


def _put_word(cpu: Cpu, i: capstone.CsInsn, value: int, pager: Pager) -> None:
    """The operand of SMSW: 16 bits of memory, or a register of any size."""
    operand = i.operands[0]
    if operand.type == x86.X86_OP_REG:
        write_register(cpu, i.reg_name(operand.reg), value)
    else:
        word = (value & 0xFFFF).to_bytes(2, "little")
        pager.write_linear(address_of(cpu, i, operand), word, user=cpu.cpl == 3)
