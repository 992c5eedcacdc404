"""The live state of Unicorn's CPU, field by field, at the offsets that layout.py measured."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import MutableSequence
from ctypes import c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Any

from hv.silicon.x86_64.layout import Layout, measure

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
REGISTERS = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
ES, CS, SS, DS, FS, GS = range(6)

# hflags, Unicorn's summary of the mode that code is translated for
HF_CPL, HF_INHIBIT_IRQ, HF_CS32, HF_SS32, HF_ADDSEG = 3, 1 << 3, 1 << 4, 1 << 5, 1 << 6
HF_LMA, HF_CS64, HF_GUEST = 1 << 14, 1 << 15, 1 << 21
HF2_NMI_MASKED = 1 << 2  # hflags2: IRET clears it

CC_OP_EFLAGS = 1  # cc_op: the arithmetic flags lie in cc_src as they are

CF, TF, IF, RF = 1 << 0, 1 << 8, 1 << 9, 1 << 16


class Segment(ctypes.Structure):
    """A segment register with its hidden part; `flags` is the high word of the descriptor."""

    _fields_ = (("selector", c_uint32), ("base", c_uint64), ("limit", c_uint32), ("flags", c_uint32))
    selector: int
    base: int
    limit: int
    flags: int


class State(ctypes.Structure):
    """CPUX86State. Only valid between slices (in a slice Unicorn keeps the arithmetic flags elsewhere)."""

    regs: MutableSequence[int]
    eip: int
    eflags: int
    cc_op: int
    hflags: int
    hflags2: int
    segs: MutableSequence[Segment]
    ldt: Segment
    tr: Segment
    gdt: Segment
    idt: Segment
    cr: MutableSequence[int]
    efer: int
    star: int
    lstar: int
    cstar: int
    fmask: int
    kernelgsbase: int
    error_code: int
    exception_is_int: int
    exception_next_eip: int
    dr: MutableSequence[int]
    old_exception: int
    vm_vmcb: int
    tsc_offset: int
    intercept: int
    intercept_cr_read: int
    intercept_cr_write: int
    v_tpr: int


def _fields(at: Layout) -> list[tuple[int, str, Any]]:
    return sorted(
        [
            (at.regs, "regs", c_uint64 * 16),
            (at.eip, "eip", c_uint64),
            (at.eflags, "eflags", c_uint64),
            (at.cc_op, "cc_op", c_uint32),
            (at.hflags, "hflags", c_uint32),
            (at.hflags + 4, "hflags2", c_uint32),
            (at.segs, "segs", Segment * 6),
            (at.segs + 6 * 24, "ldt", Segment),
            (at.segs + 7 * 24, "tr", Segment),
            (at.segs + 8 * 24, "gdt", Segment),
            (at.segs + 9 * 24, "idt", Segment),
            (at.cr, "cr", c_uint64 * 9),
            (at.efer, "efer", c_uint64),
            (at.star, "star", c_uint64),
            (at.lstar, "lstar", c_uint64),
            (at.cstar, "cstar", c_uint64),
            (at.fmask, "fmask", c_uint64),
            (at.kernelgsbase, "kernelgsbase", c_uint64),
            (at.error_code, "error_code", c_uint32),
            (at.error_code + 4, "exception_is_int", c_int32),
            (at.error_code + 8, "exception_next_eip", c_uint64),
            (at.dr, "dr", c_uint64 * 8),
            (at.old_exception, "old_exception", c_int32),
            (at.vm_vmcb, "vm_vmcb", c_uint64),
            (at.vm_vmcb + 8, "tsc_offset", c_uint64),
            (at.intercept, "intercept", c_uint64),
            (at.intercept + 8, "intercept_cr_read", c_uint16),
            (at.intercept + 10, "intercept_cr_write", c_uint16),
            (at.v_tpr, "v_tpr", c_uint8),
        ],
        key=lambda field: field[0],
    )


@functools.cache
def state_type() -> type[State]:
    """State with its fields where this Unicorn has them."""
    layout = measure()
    fields: list[tuple[str, Any]] = []
    at = 0
    for offset, name, kind in _fields(layout):
        if offset > at:
            fields.append((f"_unknown_{at:x}", c_uint8 * (offset - at)))
        fields.append((name, kind))
        at = offset + ctypes.sizeof(kind)
    return type("MeasuredState", (State,), {"_pack_": 1, "_layout_": "ms", "_fields_": fields})
