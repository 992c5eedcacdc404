"""A function of the guest's kernel beside its translation, as the papers on binary translation print it.

guest                                      translation
ffffffff80100f30  cli                      mov byte ptr [IF], 0
ffffffff80100f31  ret                      mov qword ptr [kept.rcx], rcx
                                           pop rcx
                                           jmp qword ptr [rcx*8 + targets]
"""

from __future__ import annotations

import re

import capstone

from hv.silicon.x86_64.state import REGISTERS as REGISTER_NAMES
from modes.full_emulation.translator.cache import Cache
from modes.full_emulation.translator.emit import RCX
from modes.full_emulation.translator.translate import AT_TARGET, CALL_OUT, MISS, STEP, STUB, Place
from modes.full_emulation.translator.window import (
    CR,
    CR8,
    FLAGS_BYTE,
    GDTR,
    IDTR,
    IF,
    LDTR,
    REGISTERS,
    SELECTORS,
    SIZE,
    TOO_BIG,
    TR,
    VALUE,
)

NAMES = {
    **{REGISTERS + 8 * number: f"kept.{name}" for number, name in enumerate(REGISTER_NAMES)},
    **{CR + 8 * number: f"cr{number}" for number in range(5)},
    **{SELECTORS + 8 * number: name for number, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs"))},
    VALUE: "value", VALUE + 1: "value+1", IF: "IF", CR8: "CR8", GDTR: "gdtr", GDTR + 2: "gdtr+2",
    IDTR: "idtr", IDTR + 2: "idtr+2", LDTR: "ldtr", TR: "tr", TOO_BIG: "too_big", FLAGS_BYTE: "flags_byte",
    SIZE: "targets",
}  # fmt: skip
OUTS = {STUB: "not linked yet", MISS: "not in the table", STEP: "run it at its own address", CALL_OUT: "call-out"}
NUMBER = re.compile(r"(- )?0x[0-9a-f]+")


class Listing:
    """Reads the cache; changes nothing."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.origin = {at: rip for rip, at in cache.s.where.items()}
        self.order = sorted(cache.s.places)
        self.decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)

    def lines(self, start: int, end: int) -> list[tuple[str, list[str]]]:
        """The guest's instructions in [start, end) that have been translated, each with its translation."""
        rips = sorted(rip for rip in self.cache.s.where if start <= rip < end)
        return [(self._guest(rip), self._translation(rip)) for rip in rips]

    def _guest(self, rip: int) -> str:
        page = self.cache.s.pages[rip >> 12].code[rip & 0xFFF :][:15]
        behind = self.cache.s.pages.get((rip >> 12) + 1)
        code = page + (behind.code[: 15 - len(page)] if behind is not None else b"")
        i = next(self.decoder.disasm(code, rip, 1), None)
        return f"{rip:016x}  " + ("(none)" if i is None else f"{i.mnemonic} {i.op_str}".strip())

    def _translation(self, rip: int) -> list[str]:
        """From its landing or first instruction to the one that belongs to another, and what lies behind for it."""
        places, first = self.cache.s.places, self.cache.s.where[rip]
        out = []
        for at in self.order[self.order.index(min(first, self.cache.s.landings.get(rip, first))) :]:
            fix = places[at].fix
            if at > first and (at in self.origin or fix & STUB or (fix >= CALL_OUT and places[at].rip != rip)):
                break
            if at > first and fix & AT_TARGET and places[at].rip != rip:
                break  # the landing of what follows
            out.append(self._text(at))
        return out

    def _text(self, at: int) -> str:
        window = self.cache.window
        offset = at - window.base
        place = self.cache.s.places[at]
        out = next((text for bit, text in OUTS.items() if place.fix & bit), None)
        if out is not None:
            return f"int 0x20  ; {out}"
        i = next(self.decoder.disasm(bytes(window.bytes[offset : offset + 15]), at, 1))
        if i.op_str.startswith("-0x"):  # a return address that is pushed
            return f"{i.mnemonic} {int(i.op_str, 16) & (1 << 64) - 1:#x}"
        return f"{i.mnemonic} {NUMBER.sub(lambda match: self._name(match, place), i.op_str)}".strip()

    def _name(self, match: re.Match[str], place: Place) -> str:
        """A number as what it stands for: a place in the window, or the translation of something."""
        text = match[0]
        plus = "+ " if text.startswith("- ") else ""
        value = int(text.removeprefix("- "), 16)
        if plus:
            value = (1 << 64) - value
        offset = value - self.cache.window.base
        if offset in NAMES:
            return plus + NAMES[offset]
        if place.fix & AT_TARGET and offset + place.rip & (1 << 64) - 1 == REGISTERS + 8 * RCX:
            return f"{plus}kept.rcx - {place.rip:#x}"  # a landing's load
        if value in self.origin:
            return f"<{self.origin[value]:x}>"
        target = self.cache.s.places.get(value)
        if target is None:
            return text
        return f"<{target.rip:x}, not yet>" if target.fix & STUB else "<call-out>" if target.fix & CALL_OUT else text
