"""Finds the sensitive instructions that do not trap, before a page is executed for the first time.

x86 has instructions that show or change privileged state and yet do not fault at ring 3: by Popek and Goldberg's
theorem it cannot be virtualized by trapping alone. They are PUSHF, POPF, SGDT, SIDT, SLDT, STR, SMSW, LAR, LSL, VERR,
VERW, CPUID, and what moves a segment register (a selector holds the privilege level; loading a null one never
faults). RDTSC faults by CR4.TSD.

Where instructions begin cannot be known, so every byte is taken that could begin one of them, prefixes included. Too
many does no harm: only the beginning of an instruction that is really executed is compared (breakpoints.py), and what
turns out to be something else is stepped over.
"""

from __future__ import annotations

import functools
import re

PREFIX = rb"[\x26\x2e\x36\x3e\x40-\x4f\x64-\x67\xf0\xf2\xf3]"
OPCODE = rb"(?:[\x9c\x9d\x8c\x8e\x06\x07\x0e\x16\x17\x1e\x1f]|\x0f(?:[\x00-\x03\xa0-\xa2\xa8\xa9\xb2\xb4\xb5]|$)|$)"
CANDIDATE = re.compile(rb"(?=" + PREFIX + rb"{0,14}" + OPCODE + rb")", re.DOTALL)


@functools.lru_cache(64)
def candidates(page: bytes) -> frozenset[int]:
    """Offsets in a page at which a sensitive instruction may begin; one that goes on behind its end counts too."""
    return frozenset(match.start() for match in CANDIDATE.finditer(page) if match.start() < len(page))
