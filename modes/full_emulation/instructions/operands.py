"""What every instruction needs: its operands, the check of privilege, and the way to the next one."""

from __future__ import annotations

import struct

import capstone
from capstone import x86

from hv.x86_64.board import Board
from hv.x86_64.decode import MASKS, address_of, read_register, register_name, write_register
from modes.full_emulation.core import Core
from modes.full_emulation.reflect import GP
from modes.shadow.registers import GuestFault


class Operands:
    """A virtual CPU and the board around it, as an instruction sees them."""

    def __init__(self, core: Core, board: Board) -> None:
        self.core, self.board = core, board
        self.cpu = core.cpu

    def privileged(self) -> None:
        if self.core.v.cpl:
            raise GuestFault(GP)

    def done(self, i: capstone.CsInsn, reason: str) -> str:
        self.cpu.skip(i.size)
        return reason

    def address(self, i: capstone.CsInsn, operand: x86.X86Op) -> int:
        return address_of(self.cpu, i, operand) & self.core.mask

    def get(self, i: capstone.CsInsn, operand: x86.X86Op, size: int) -> int:
        if operand.type == x86.X86_OP_MEM:
            return self.core.read_int(self.address(i, operand), size)
        return read_register(self.cpu, register_name(operand.reg)) & MASKS[size]

    def put_word(self, i: capstone.CsInsn, operand: x86.X86Op, value: int) -> None:
        """A 16-bit value: memory takes two bytes, a register is filled up with zeros."""
        if operand.type == x86.X86_OP_MEM:
            self.core.write(self.address(i, operand), struct.pack("<H", value & 0xFFFF))
        else:
            write_register(self.cpu, register_name(operand.reg), value)
