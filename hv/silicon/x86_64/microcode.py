"""`struct microcode` of microcode.c for Python, and the library that zig built from it."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import MutableSequence
from ctypes import c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, ClassVar

from hv.silicon.x86_64.layout import SiliconError

# The silicon events that microcode.c counts, in the order of its `enum event`.
EVENTS = (
    "port_io", "cr_access", "cr8_access", "invlpg", "iret", "syscall", "exception", "tlb_fill", "apic_access",
    "virtual_interrupt", "posted_interrupt", "pause",
)  # fmt: skip

CONTROL_WORDS = 24  # of the VMCB that a hypervisor writes to command the CPU: 0x000 to 0x0BF
NOWHERE = (1 << 64) - 1
BREAKPOINT_PAGES = 1024

_WORDS = "retired stop extra deadline cpi pc length"
_EXITS = (
    "exit_valid exit_code exit_info1 exit_left want want_cr_read want_cr_write stepping armed armed_cr_read "
    "armed_cr_write watch_tpr watch_iret injecting external delivering recognized notified trap trap_info entering"
)
_POINTERS = (
    "uc cpu regs eip efer star lstar cstar fmask next_eip hflags error_code is_int old_exception cc_op eventinj cs ss "
    "intercept intercept_cr_read intercept_cr_write do_interrupt do_vmexit raise_exception "
    "check_port0 check_port1 check_port2 check_ioio env "
    "emu_start emu_stop reg_read reg_write vmcb break_filter break_marks break_pages raise_vmexit "
    "on_exit port_in port_out "
    "index virtual_apic descriptor eflags v_tpr hardware_interrupt loop_exit apic_written"
)


class Microcode(ctypes.Structure):
    """The counters and switches that the hooks work on. See microcode.c for what each one means."""

    _fields_ = (
        *((name, c_uint64) for name in _WORDS.split()),
        ("mark", c_uint64 * 2),
        ("mark_hit", c_uint64),
        ("mark_pass", c_uint64),
        ("count", c_uint64 * len(EVENTS)),
        ("cost", c_uint64 * len(EVENTS)),
        *((name, c_uint64) for name in _EXITS.split()),
        ("control", c_uint64 * CONTROL_WORDS),
        *((name, c_void_p) for name in _POINTERS.split()),
    )
    uc: ClassVar[Any]  # the first of the addresses
    retired: int
    stop: int
    extra: int
    deadline: int
    cpi: int
    pc: int
    length: int
    mark: MutableSequence[int]
    mark_hit: int
    mark_pass: int
    count: MutableSequence[int]
    cost: MutableSequence[int]
    exit_valid: int
    exit_code: int
    exit_info1: int
    exit_left: int
    want: int
    want_cr_read: int
    want_cr_write: int
    stepping: int
    armed: int
    armed_cr_read: int
    armed_cr_write: int
    watch_tpr: int
    watch_iret: int
    injecting: int
    external: int
    delivering: int
    recognized: int
    notified: int
    trap: int
    trap_info: int
    entering: int
    control: ctypes.Array[c_uint64]
    vmcb: int
    eventinj: int
    break_filter: int
    break_marks: int
    break_pages: int
    index: int
    virtual_apic: int
    descriptor: int


def library_path() -> Path | None:
    """Where the built microcode is, or None on a platform that it was not built for."""
    built = Path(__file__).parents[2] / "_built"
    for name in ("microcode.so", "microcode.dylib"):
        if (built / name).exists():
            return built / name
    return None


@functools.cache
def load() -> ctypes.CDLL:
    """The microcode library. Raises SiliconError when it is missing or was built from another source."""
    path = library_path()
    if path is None:
        raise SiliconError("the microcode library was not built for this platform; use --portable")
    try:
        library = ctypes.CDLL(str(path))
        library.microcode_size.restype = c_uint64
        library.run.argtypes = [c_void_p, c_uint64]
        library.pass_time.argtypes, library.pass_time.restype = [c_void_p, c_uint64], None
        library.post_interrupt.argtypes = [c_void_p, c_void_p, c_uint32, c_uint32]
    except (OSError, AttributeError):
        raise SiliconError("the microcode library is damaged; run make again") from None
    if library.microcode_size() != ctypes.sizeof(Microcode):
        raise SiliconError("the microcode library is older than its source; run make again")
    return library
