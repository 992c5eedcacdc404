"""Where Unicorn keeps the state of its CPU: measured when hv starts, never copied from a header.

Unicorn's public API cannot write the hidden part of a segment register, the current privilege level or an intercept.
So hv reads and writes `CPUX86State` in place. Every offset is found by writing a marker through the public API (or with
an instruction) and looking for it in a saved context, which is a copy of that state. A Unicorn in which a marker is
missing, or found twice, does not fit, and `measure` says so in one line.

Reading memory at a guessed address: `write(2)` from it into a pipe fails with EFAULT instead of a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import struct
from collections.abc import Iterator

import msgspec
import unicorn
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

CONTEXT_HEADER_SCAN = 128  # the saved state begins within this many bytes of the context's data
CPU_SCAN = 0x20000  # env lies within this many bytes behind the start of the CPU object
UC_SCAN = 0x1000  # the pointer to the CPU object lies within the first page of uc_struct


class SiliconError(Exception):
    """This Unicorn cannot serve as the silicon; the message is one line for the user."""


def exported(name: str) -> int:
    """Address of a function of Unicorn's x86-64 core. Raises SiliconError when this build does not export it."""
    try:
        address = ctypes.cast(getattr(uclib, f"{name}_x86_64"), ctypes.c_void_p).value
    except AttributeError:
        raise SiliconError(f"this build of Unicorn does not export {name}") from None
    assert address is not None
    return address


class Layout(msgspec.Struct, frozen=True):
    """Offsets in bytes: the first two in uc_struct, `env` in the CPU object, the rest in env (CPUX86State)."""

    stop_interrupt: int
    cpu: int
    env: int
    regs: int
    eip: int
    eflags: int
    cc_op: int
    hflags: int
    segs: int
    cr: int
    efer: int
    star: int
    lstar: int
    cstar: int
    fmask: int
    kernelgsbase: int
    error_code: int
    dr: int
    old_exception: int
    vm_vmcb: int
    intercept: int
    v_tpr: int
    size: int


# Addresses of the scratch machine. Its page tables are one 2 MiB identity page.
PML4, PDPT, PD, GDT, HSAVE, VMCB, NPT, CODE, STACK, SIZE = (
    0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000, 0x8000, 0xF000, 0x200000,
)  # fmt: skip
INT_55 = b"\xcd\x55"
UD2 = b"\x0f\x0b"
VMRUN = b"\x0f\x01\xd8"
HLT = b"\xf4"
ARITHMETIC_FLAGS, DF = 0x8D5, 1 << 10
CR0, CR4, EFER_VALUE = 0x8001_0033, 0x620, 0x1D01  # PG WP NE ET MP PE; PAE OSFXSR OSXMMEXCPT; NXE LMA LME SVME SCE


def _marker(number: int) -> int:
    """A 48-bit canonical value that nothing else has."""
    return 0x5A5A_0000_0000 | number * 0x01_0203_05


class _Scratch:
    """A Unicorn in long mode, ring 0, with one saved context to search."""

    def __init__(self) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC)
        self.ram = mmap.mmap(-1, SIZE)
        self._keep = ctypes.c_char.from_buffer(self.ram)
        self.uc.mem_map_ptr(0, SIZE, unicorn.UC_PROT_ALL, ctypes.addressof(self._keep))
        for at, value in ((PML4, PDPT | 7), (PDPT, PD | 7), (PD, 0xE7), (GDT + 8, 0x00AF_9B00_0000_FFFF)):
            self.ram[at : at + 8] = struct.pack("<Q", value)
        self.write(x86.UC_X86_REG_CR3, PML4)
        self.write(x86.UC_X86_REG_CR4, CR4)
        self.write_msr(0xC000_0080, EFER_VALUE)
        self.write(x86.UC_X86_REG_CR0, CR0)
        self.write_msr(0xC001_0117, HSAVE)
        self.uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT, 0xF, 0))
        self.uc.ctl_exits_enabled(True)
        self.context = self.uc.context_save()

    def write(self, register: int, value: int) -> None:
        self.uc.reg_write(register, value)

    def write_msr(self, number: int, value: int) -> None:
        self.uc.reg_write(x86.UC_X86_REG_MSR, (number, value))

    def run(self, code: bytes) -> None:
        self.ram[CODE : CODE + 16] = code.ljust(16, HLT)
        self.uc.ctl_flush_tb()
        # An exception that nobody took ends the run; the state is what is wanted.
        with contextlib.suppress(unicorn.UcError):
            self.uc.emu_start(CODE, 0)

    def blob(self) -> bytes:
        uclib.uc_context_save(self.uc._uch, self.context._context)
        address = ctypes.cast(self.context._context, ctypes.c_void_p).value
        assert address is not None
        return ctypes.string_at(address, self.context.size)


def _find(blob: bytes, wanted: bytes, what: str, start: int = 0, step: int = 4) -> int:
    places = [at for at in range(start, len(blob) - len(wanted) + 1, step) if blob.startswith(wanted, at)]
    if len(places) != 1:
        raise SiliconError(f"{what} found {len(places)} times in Unicorn's CPU state")
    return places[0]


def _u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


class _Peeker:
    """Reads this process's memory at any address, mapped or not."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        self.libc.write.restype = ctypes.c_ssize_t
        self.read_end, self.write_end = os.pipe()

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)

    def peek(self, address: int, size: int) -> bytes:
        """Up to `size` bytes from `address`; fewer where the memory ends."""
        out = b""
        while len(out) < size:
            at = address + len(out)
            chunk = min(size - len(out), 0x1000 - at % 0x1000)
            if self.libc.write(self.write_end, at, chunk) != chunk:
                break
            out += os.read(self.read_end, chunk)
        return out


@contextlib.contextmanager
def _peeker() -> Iterator[_Peeker]:
    peeker = _Peeker()
    try:
        yield peeker
    finally:
        peeker.close()


def _find_env(scratch: _Scratch, markers: bytes) -> tuple[int, int]:
    """Offsets of the CPU pointer in uc_struct and of the live registers in the CPU object.

    The CPU object points back to its uc_struct before the registers. A pointer to a lesser block that happens to lie in
    front of the CPU object sees all that too, only farther away: the nearest one is the CPU object itself.
    """
    handle: int = scratch.uc._uch.value
    found = []
    with _peeker() as peeker:
        for at in range(0, UC_SCAN, 8):
            word = peeker.peek(handle + at, 8)
            if len(word) < 8:
                break
            pointer = struct.unpack("<Q", word)[0]
            if pointer % 8 or not 0x10000 < pointer < 1 << 47:
                continue
            memory = peeker.peek(pointer, CPU_SCAN)
            env = memory.find(markers)
            if env >= 0 and _u64(handle) in memory[:env]:
                found.append((env, at))
    if not found:
        raise SiliconError("Unicorn's live CPU state was not found in memory")
    env, at = min(found)
    return at, env


def _find_stop_interrupt(scratch: _Scratch) -> int:
    """Offset in uc_struct of a function that Unicorn asks what to do whenever it leaves translated code in the middle.

    It is private. The field after it holds an exported function; and it is asked about exception 6 at an UD2.
    """
    handle: int = scratch.uc._uch.value
    with _peeker() as peeker:
        fields = peeker.peek(handle, UC_SCAN)
    neighbour = exported("memory_map_io")
    at = _find(fields, _u64(neighbour), "the field after stop_interrupt", step=8) - 8
    field = ctypes.c_uint64.from_address(handle + at)
    asked = []
    stand_in = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int)(lambda _, number: asked.append(number))
    original, field.value = field.value, ctypes.cast(stand_in, ctypes.c_void_p).value or 0
    scratch.run(UD2)
    field.value = original
    if asked != [-1, 6]:
        raise SiliconError("stop_interrupt is not where it belongs in Unicorn's uc_struct")
    return at


@functools.cache
def measure() -> Layout:
    """Find every offset, once per process. Raises SiliconError when this Unicorn does not fit."""
    if unicorn.__version__ != "2.1.4":
        raise SiliconError(f"Unicorn 2.1.4 is needed, this is {unicorn.__version__}")
    s = _Scratch()
    order = "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15".split()
    for i, name in enumerate(order):
        s.write(getattr(x86, f"UC_X86_REG_{name}"), _marker(i))
    regs_marker = _u64(*map(_marker, range(16)))
    s.write(x86.UC_X86_REG_RIP, _marker(16))
    s.write(x86.UC_X86_REG_CR2, _marker(17))
    s.write(x86.UC_X86_REG_FS_BASE, _marker(18))
    s.write(x86.UC_X86_REG_GS_BASE, _marker(19))
    s.uc.reg_write(x86.UC_X86_REG_IDTR, (0, _marker(20), 0xFFF, 0))
    s.uc.reg_write(x86.UC_X86_REG_GDTR, (0, _marker(21), 0x7F, 0))
    msrs = {"star": 0xC000_0081, "lstar": 0xC000_0082, "cstar": 0xC000_0083, "fmask": 0xC000_0084,
            "kernelgsbase": 0xC000_0102}  # fmt: skip
    for i, number in enumerate(msrs.values()):
        s.write_msr(number, _marker(22 + i))
    for i in range(4):
        s.write(x86.UC_X86_REG_DR0 + i, _marker(30 + i))
    s.write(x86.UC_X86_REG_EFLAGS, ARITHMETIC_FLAGS | DF)
    cpu, env = _find_env(s, regs_marker)
    blob = s.blob()
    base = _find(blob, regs_marker, "the general registers", step=1)
    if base > CONTEXT_HEADER_SCAN:
        raise SiliconError("the saved context does not begin with the general registers")
    blob = blob[base:]
    eip = _find(blob, _u64(_marker(16)), "RIP")
    fs = _find(blob, _u64(_marker(18)), "the base of FS") - 8
    segs = fs - 4 * 24
    cr = _find(blob, _u64(_marker(17)), "CR2") - 16
    places: dict[str, tuple[object, object]] = {
        "the base of GS": (_find(blob, _u64(_marker(19)), "the base of GS"), fs + 24 + 8),
        "GDTR": (_find(blob, _u64(_marker(21)), "GDTR"), segs + 8 * 24 + 8),
        "IDTR": (_find(blob, _u64(_marker(20)), "IDTR"), segs + 9 * 24 + 8),
        "CR0": (_find(blob, _u64(CR0), "CR0"), cr),
        "CR3": (_find(blob, _u64(PML4), "CR3", start=cr), cr + 24),
    }
    # Between RFLAGS and hflags: cc_dst, cc_src, cc_src2 (8 bytes each), cc_op (1: flags are in cc_src), df (1 or -1).
    places["the arithmetic flags"] = (struct.unpack_from("<QQIi", blob, eip + 24), (ARITHMETIC_FLAGS, 0, 1, -1))
    s.write(x86.UC_X86_REG_EFLAGS, 2)
    msr_at = {name: _find(blob, _u64(_marker(22 + i)), name.upper()) for i, name in enumerate(msrs)}
    dr = _find(blob, _u64(*(_marker(30 + i) for i in range(4))), "the debug registers")

    # A descriptor table again, then an `int n`: its fields show which exception state is where.
    s.uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT, 0xF, 0))
    s.write(x86.UC_X86_REG_RSP, STACK)
    s.run(INT_55)
    int_blob = s.blob()[base:]
    error_code = _find(int_blob, struct.pack("<IIQ", 0, 1, CODE + 2), "the interrupt in flight")
    places["DR0"] = (dr, error_code + 16)
    old_exception = dr + 64 + 32
    s.write(x86.UC_X86_REG_CR3, PML4)
    s.run(bytes.fromhex("0fb6042500004000"))  # movzx eax, byte [0x400000]: not mapped, #PF
    places["the exception in flight"] = (struct.unpack_from("<i", s.blob(), base + old_exception)[0], 14)
    stop_interrupt = _find_stop_interrupt(s)
    efer = _find(s.blob()[base:], _u64(EFER_VALUE), "EFER", start=cr)

    # A guest: what VMRUN loads from the VMCB shows where it goes.
    vmcb = bytearray(0x1000)
    for at, value in ((0x0C, 1 << 24 | 1 << 32 | _marker(40) & ~0xFFFF_FFFF_FFFF | 1 << 45), (0x50, _marker(41)),
                      (0x58, 1), (0x60, 1 << 24 | 5), (0x90, 1), (0xB0, NPT), (0x4D0, EFER_VALUE), (0x548, CR4),
                      (0x550, PML4), (0x558, CR0), (0x570, 2), (0x578, CODE + 8), (0x5D8, STACK)):  # fmt: skip
        struct.pack_into("<Q", vmcb, at, value)
    struct.pack_into("<H", vmcb, 0, 0x0123)
    struct.pack_into("<HHIQ", vmcb, 0x410, 8, 0xA9B, 0xFFFF_FFFF, 0)
    s.ram[VMCB : VMCB + 0x1000] = bytes(vmcb)
    s.ram[NPT : NPT + 8] = _u64(PDPT | 7)
    s.run(bytes.fromhex("6a08488d05040000005048cb"))  # push 8; lea rax,[rip+4]; push rax; retfq: load a 64-bit CS
    s.write(x86.UC_X86_REG_RAX, VMCB)
    s.run(VMRUN + HLT * 5 + UD2)
    guest = s.blob()[base:]
    vm_vmcb = _find(guest, _u64(VMCB, _marker(41)), "the VMCB in use", start=old_exception)
    intercept = vm_vmcb + 16
    places["the intercepts"] = (_find(guest, bytes(vmcb[0x0C:0x14]) + struct.pack("<H", 0x0123), "the intercepts"),
                                intercept)  # fmt: skip
    v_tpr = _find(guest, _u64(NPT), "nCR3", start=intercept) + 8 + 4
    places["V_TPR"] = (guest[v_tpr], 5)
    for what, (found, wanted) in places.items():
        if found != wanted:
            raise SiliconError(f"{what} is not where it belongs in Unicorn's CPU state")
    return Layout(
        stop_interrupt=stop_interrupt, cpu=cpu, env=env, regs=0, eip=eip, eflags=eip + 8, cc_op=eip + 40,
        hflags=segs - 8, segs=segs, cr=cr, efer=efer,
        error_code=error_code, dr=dr, old_exception=old_exception, vm_vmcb=vm_vmcb, intercept=intercept, v_tpr=v_tpr,
        size=len(blob), **msr_at,
    )  # fmt: skip
