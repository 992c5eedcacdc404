"""IN, OUT, INS, OUTS."""

from __future__ import annotations

import capstone
from capstone import x86

from hv.silicon.x86_64.state import RCX, RDX
from hv.x86_64.decode import read_register, register_name, write_register
from hv.x86_64.ports import string_transfer
from modes.full_emulation.instructions.operands import Operands
from modes.full_emulation.reflect import GP
from modes.shadow.registers import GuestFault

FLAG_DF = 1 << 10
STRING_SIZES = {
    x86.X86_INS_INSB: 1, x86.X86_INS_INSW: 2, x86.X86_INS_INSD: 4,
    x86.X86_INS_OUTSB: 1, x86.X86_INS_OUTSW: 2, x86.X86_INS_OUTSD: 4,
}  # fmt: skip


class Ports(Operands):
    """What the guest may reach, the board answers."""

    def check_port(self, port: int, size: int) -> None:
        """The I/O permission bitmap of the guest's TSS (APM vol. 2, 12.2.4)."""
        core, v = self.core, self.core.v
        if v.cpl <= v.iopl:
            return
        _, base, limit = v.tr
        if limit < 103:
            raise GuestFault(GP)
        at = core.read_int(base + 0x66, 2, system=True) + port // 8
        if at + 1 > limit or core.read_int(base + at, 2, system=True) >> port % 8 & (1 << size) - 1:
            raise GuestFault(GP)

    def port(self, i: capstone.CsInsn) -> str:
        """IN, OUT."""
        is_in = i.id == x86.X86_INS_IN
        data, number = i.operands if is_in else i.operands[::-1]
        port = number.imm & 0xFF if number.type == x86.X86_OP_IMM else self.cpu.regs[RDX] & 0xFFFF
        size = data.size
        self.check_port(port, size)
        name = register_name(data.reg)
        if is_in:
            write_register(self.cpu, name, self.board.ports.read(port, size))
        else:
            self.board.ports.write(port, size, read_register(self.cpu, name))
        return self.done(i, "ioio")

    def string_port(self, i: capstone.CsInsn) -> str:
        """INS, OUTS; with REP as far as the page goes."""
        core, regs = self.core, self.cpu.regs
        is_in = i.id in (x86.X86_INS_INSB, x86.X86_INS_INSW, x86.X86_INS_INSD)
        size = STRING_SIZES[i.id]
        repeated = i.prefix[0] in (0xF2, 0xF3)
        port = regs[RDX] & 0xFFFF
        self.check_port(port, size)
        step = -size if core.flags & FLAG_DF else size
        string_transfer(self.cpu, core.mask, self.board.ports, port, step, is_in, repeated, core.read, core.write)
        if not repeated or not regs[RCX]:
            self.cpu.skip(i.size)
        return "ioio"
