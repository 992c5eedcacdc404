"""Segment registers and descriptor tables (APM vol. 2, chapter 4; vol. 3, each instruction's page)."""

from __future__ import annotations

import struct

import capstone
from capstone import x86

from hv.x86_64.decode import register_name, write_register
from modes.full_emulation.instructions.operands import Operands
from modes.full_emulation.reflect import CODE, CONFORMING, GP, NP, PRESENT, SS_VECTOR
from modes.full_emulation.state import FS, GS, SS
from modes.shadow.registers import GuestFault

FLAG_ZF = 1 << 6
# Bits of a descriptor, taken as one number of 64 bits.
WRITABLE_DATA, DESCRIPTOR_ACCESSED, NOT_SYSTEM = 1 << 41, 1 << 40, 1 << 44


class Segments(Operands):
    """LGDT, LIDT, LLDT, LTR and what stores them; segment registers; LAR, LSL, VERR, VERW."""

    def load_table(self, i: capstone.CsInsn) -> str:
        """LGDT, LIDT."""
        self.privileged()
        core = self.core
        size = 8 if core.v.long_code else 4
        raw = core.read(self.address(i, i.operands[0]), 2 + size)
        value = int.from_bytes(raw[2:], "little"), int.from_bytes(raw[:2], "little")
        if i.id == x86.X86_INS_LGDT:
            core.v.gdt = value
        else:
            core.v.idt = value
        return self.done(i, "descriptor_table")

    def store_table(self, i: capstone.CsInsn) -> str:
        """SGDT, SIDT."""
        core = self.core
        base, limit = core.v.gdt if i.id == x86.X86_INS_SGDT else core.v.idt
        size = 8 if core.v.long_code else 4
        core.write(self.address(i, i.operands[0]), struct.pack("<H", limit) + base.to_bytes(8, "little")[:size])
        return self.done(i, "descriptor_table")

    def load_system(self, i: capstone.CsInsn) -> str:
        """LLDT, LTR."""
        self.privileged()
        core, v = self.core, self.core.v
        selector = self.get(i, i.operands[0], 2)
        ltr = i.id == x86.X86_INS_LTR
        if not selector & 0xFFFC and not ltr:
            v.ldt = selector, 0, 0
            return self.done(i, "descriptor_table")
        if not selector & 0xFFFC or selector & 4:
            raise GuestFault(GP, selector & 0xFFFC)
        low = core.descriptor(selector)
        if (selector | 15) > v.gdt[1]:
            raise GuestFault(GP, selector & 0xFFFC)
        kind = low >> 40 & 0x1F
        if kind not in ((1, 9) if ltr else (2,)):
            raise GuestFault(GP, selector & 0xFFFC)
        if not low & PRESENT:
            raise GuestFault(NP, selector & 0xFFFC)
        place = v.gdt[0] + (selector & ~7)
        high = core.read_int(place + 8, 8, system=True) & 0xFFFF_FFFF if v.long_mode else 0
        base = low >> 16 & 0xFF_FFFF | low >> 32 & 0xFF00_0000 | high << 32
        if ltr:
            core.write(place + 5, bytes((low >> 40 & 0xFF | 2,)), system=True)  # busy
            v.tr = selector, base, _limit(low)
        else:
            v.ldt = selector, base, _limit(low)
        return self.done(i, "descriptor_table")

    def store_system(self, i: capstone.CsInsn) -> str:
        """SLDT, STR."""
        v = self.core.v
        self.put_word(i, i.operands[0], (v.ldt if i.id == x86.X86_INS_SLDT else v.tr)[0])
        return self.done(i, "descriptor_table")

    def load_segment(self, index: int, selector: int) -> None:
        """A data segment register gets a selector (APM vol. 2, 4.10)."""
        core, v = self.core, self.core.v
        rpl, named = selector & 3, selector & 0xFFFC
        if not named:
            if index == SS and (v.cpl == 3 or not v.long_code):
                raise GuestFault(GP)
            base = 0
        else:
            descriptor = core.descriptor(selector)
            dpl, code = descriptor >> 45 & 3, bool(descriptor & CODE)
            if not descriptor & NOT_SYSTEM:
                raise GuestFault(GP, named)
            if index == SS:
                if code or not descriptor & WRITABLE_DATA or dpl != v.cpl or rpl != v.cpl:
                    raise GuestFault(GP, named)
            elif (code and not descriptor & WRITABLE_DATA) or (
                not (code and descriptor & CONFORMING) and dpl < max(v.cpl, rpl)
            ):
                raise GuestFault(GP, named)
            if not descriptor & PRESENT:
                raise GuestFault(SS_VECTOR if index == SS else NP, named)
            if not descriptor & DESCRIPTOR_ACCESSED:
                table = v.ldt[1] if selector & 4 else v.gdt[0]
                core.write(table + (selector & ~7) + 5, bytes((descriptor >> 40 & 0xFF | 1,)), system=True)
            base = descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000
        v.selectors[index] = selector
        if index in (FS, GS):
            self.cpu.state.segs[index].base = base

    def look_at_segment(self, i: capstone.CsInsn) -> str:
        """LAR, LSL, VERR, VERW: answers in ZF, no fault for a bad selector."""
        core = self.core
        selector = self.get(i, i.operands[-1], 2)
        try:
            descriptor = core.descriptor(selector) if selector & 0xFFFC else None
        except GuestFault as fault:
            if fault.address is not None:
                raise
            descriptor = None
        good = descriptor is not None and self.visible(i.id, selector, descriptor)
        if good and len(i.operands) > 1:
            assert descriptor is not None
            value = _limit(descriptor) if i.id == x86.X86_INS_LSL else descriptor >> 32 & 0x00F0_FF00
            name = register_name(i.operands[0].reg)
            write_register(self.cpu, name, value)
        core.flags = core.flags | FLAG_ZF if good else core.flags & ~FLAG_ZF
        return self.done(i, "segment")

    def visible(self, what: int, selector: int, descriptor: int) -> bool:
        kind, dpl = descriptor >> 40 & 0xF, descriptor >> 45 & 3
        code, conforming = bool(descriptor & CODE), bool(descriptor & CONFORMING)
        allowed = dpl >= max(self.core.v.cpl, selector & 3)
        if what in (x86.X86_INS_LAR, x86.X86_INS_LSL):
            if descriptor & NOT_SYSTEM:
                return (code and conforming) or allowed
            return allowed and kind in ((1, 2, 3, 9, 11) if what == x86.X86_INS_LSL else (1, 2, 3, 4, 5, 9, 11, 12))
        if not descriptor & NOT_SYSTEM:
            return False
        if what == x86.X86_INS_VERR:
            return (not code or bool(descriptor & WRITABLE_DATA)) and ((code and conforming) or allowed)
        return not code and bool(descriptor & WRITABLE_DATA) and allowed


def _limit(descriptor: int) -> int:
    limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000
    return limit << 12 | 0xFFF if descriptor >> 55 & 1 else limit
